"""The decision, for single situations and for generated ones."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from recharge.core.decide import best_package, decide, new_attempt
from recharge.core.need import need_is_over
from recharge.core.situation import Balance, Charge, Month, Reason, Request, Situation, Skip, Suspension
from shared.events import AutoRecharge, BillingProfile, Card, Consent, CreditPackage, OpenPurchase

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(days=1)


def _card(name: str, *, usable: bool = True) -> Card:
    return Card(
        payment_method=f"pm_{name}", brand="visa", last4="4242", exp_month=1, exp_year=2030, fingerprint=name,
        usable=usable,
    )  # fmt: skip


def package(name: str, credits: int, price_minor: int, currency: str = "usd") -> CreditPackage:
    return CreditPackage(
        package=name, version=1, name=name, credits=credits, price_minor=price_minor, currency=currency, active=True
    )


PACKAGES = (package("small", 100, 500), package("medium", 1_000, 4_500), package("large", 5_000, 20_000))
LOW = Balance(
    version=3, available=10, receivable=0, receivable_since=None, last_entry_version=3, served_available=None,
    served_at=None, last_purchase_at=None,
)  # fmt: skip
SETTINGS = AutoRecharge(
    enabled=True, threshold_credits=50, amount_minor=5_000, currency="usd", monthly_cap_minor=20_000,
    consent=Consent(text_version="1", given_by="ada", given_at=EARLIER), payment_method="pm_a",
)  # fmt: skip
PROFILE = BillingProfile(
    tenant="acme", version=1, stripe_customer="cus_1", cards=(_card("a"),), default_payment_method="pm_a",
    auto_recharge=SETTINGS, changed_at=EARLIER,
)  # fmt: skip
IN_NEED = Situation(
    profile=PROFILE, balance=LOW, packages=PACKAGES, month=Month({}, False), open_attempt=None,
    paid_otherwise_since=None, dispute_open_since=None,
    stopped_cards={}, card_proven_at=None, purchase_left_since=None, suspension=None,
    is_frozen=False, inputs_caught_up_at=NOW, breaker_open_until=None, breaker_is_half_open=False, request=None,
)  # fmt: skip


def with_settings(**changes: object) -> Situation:
    return replace(IN_NEED, profile=PROFILE.model_copy(update={"auto_recharge": SETTINGS.model_copy(update=changes)}))


def with_purchase(state: Literal["open", "processing", "succeeded"], age: timedelta) -> Situation:
    purchase = OpenPurchase(purchase="pur_1", state=state, since=NOW - age)
    return replace(IN_NEED, profile=PROFILE.model_copy(update={"purchases": (purchase,)}))


def reason(situation: Situation) -> Reason | None:
    decided = decide(situation, NOW)
    return decided.reason if isinstance(decided, Skip) else None


def test_the_package_with_the_most_credits_within_the_amount_is_bought() -> None:
    assert decide(IN_NEED, NOW) == Charge(PACKAGES[1], limited_by_cap=False)


def test_of_equal_packages_the_cheaper_one_is_bought() -> None:
    assert best_package([package("dear", 100, 600), package("cheap", 100, 500)], 1_000) == package("cheap", 100, 500)


def test_each_reason_has_a_situation() -> None:
    suspended = Suspension(NOW - timedelta(hours=1), "card_declined", frozenset(["a"]))
    expected = {
        Reason.FROZEN: replace(IN_NEED, is_frozen=True),
        Reason.DISABLED: with_settings(enabled=False),
        Reason.NO_CONSENT: with_settings(consent=None),
        Reason.ATTEMPT_OPEN: replace(IN_NEED, open_attempt="att_1"),
        Reason.BALANCE_UNKNOWN: replace(IN_NEED, balance=None),
        Reason.BALANCE_OLDER_THAN_CREDIT: replace(IN_NEED, balance=replace(LOW, last_entry_version=4)),
        Reason.ABOVE_THRESHOLD: replace(IN_NEED, balance=replace(LOW, available=50)),
        Reason.NEED_ALREADY_SERVED: replace(IN_NEED, balance=replace(LOW, served_available=9, served_at=NOW)),
        Reason.SUSPENDED: replace(IN_NEED, suspension=suspended),
        Reason.DISPUTE_OPEN: replace(IN_NEED, dispute_open_since=NOW),
        Reason.RECEIVABLE_OPEN: replace(IN_NEED, balance=replace(LOW, receivable=5, receivable_since=NOW)),
        Reason.OPEN_PURCHASE: with_purchase("open", timedelta(minutes=4)),
        Reason.PURCHASE_LEFT_OPEN: with_purchase("open", timedelta(minutes=6)),
        Reason.NO_CARD: with_settings(payment_method=None),
        Reason.CARD_STOPPED: replace(IN_NEED, stopped_cards={"pm_a": "lost_card"}),
        Reason.CURRENCY: with_settings(currency="eur"),
        Reason.NO_PACKAGE_FITS: with_settings(amount_minor=499),
        Reason.CAP_REACHED: replace(IN_NEED, month=Month({"usd": 19_600}, False)),
        Reason.BREAKER_OPEN: replace(IN_NEED, breaker_open_until=NOW + timedelta(seconds=1)),
        Reason.INPUTS_STALE: replace(IN_NEED, inputs_caught_up_at=NOW - timedelta(seconds=31)),
    }
    assert {name: reason(situation) for name, situation in expected.items()} == {name: name for name in expected}


def test_a_month_with_charges_in_another_currency_is_refused() -> None:
    assert reason(replace(IN_NEED, month=Month({"eur": 1}, False))) is Reason.CURRENCY


def test_a_reached_cap_is_decided_about_again_in_the_next_month() -> None:
    decided = decide(replace(IN_NEED, month=Month({"usd": 20_000}, False)), NOW)
    assert decided == Skip(Reason.CAP_REACHED, datetime(2026, 10, 1, tzinfo=UTC))


def test_the_largest_package_within_the_cap_is_bought_once_a_month() -> None:
    limited = replace(IN_NEED, month=Month({"usd": 19_000}, False))
    assert decide(limited, NOW) == Charge(PACKAGES[0], limited_by_cap=True)
    assert reason(replace(limited, month=Month({"usd": 19_000}, True))) is Reason.CAP_REACHED


@pytest.mark.parametrize(
    ("changes", "is_over"),
    [
        ({}, True),
        ({"available": 49}, False),
        ({"served_available": None}, False),
        ({"last_entry_version": 4}, False),
    ],
)
def test_a_need_is_over_when_the_balance_has_reached_the_threshold(changes: dict[str, Any], is_over: bool) -> None:
    lifted = replace(LOW, available=50, served_available=10, served_at=NOW)
    assert need_is_over(replace(lifted, **changes), PROFILE) == is_over
    assert not need_is_over(None, PROFILE)
    assert not need_is_over(lifted, PROFILE.model_copy(update={"credited_in_version": 4}))


def test_a_new_attempt_is_of_the_request_that_waits() -> None:
    charge = Charge(PACKAGES[0], limited_by_cap=True)
    attempt = new_attempt("acme", "att_1", IN_NEED, charge, NOW)
    assert (attempt.trigger, attempt.request, attempt.reason) == ("automatic", None, "limited_by_cap")
    assert (attempt.amount_minor, attempt.credits, attempt.stripe_customer) == (500, 100, "cus_1")
    asked = replace(IN_NEED, request=Request("req_1", NOW, NOW + timedelta(minutes=1)))
    assert new_attempt("acme", "att_1", asked, charge, NOW).request == "req_1"
    expired = replace(IN_NEED, request=Request("req_1", NOW, NOW))
    assert new_attempt("acme", "att_1", expired, charge, NOW).trigger == "automatic"


def mostly(good: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`good` in nine of ten cases: a charge needs every input to be good, which is rare by chance."""
    return st.integers(0, 9).flatmap(lambda n: other if n == 0 else good)


situations = st.builds(
    replace,
    st.just(IN_NEED),
    profile=st.builds(
        lambda cards, purchases, settings: PROFILE.model_copy(
            update={"cards": cards, "purchases": purchases, "auto_recharge": settings}
        ),
        mostly(
            st.just((_card("a"), _card("b"))),
            st.lists(st.builds(_card, st.sampled_from("abc"), usable=st.booleans()), max_size=3).map(tuple),
        ),
        mostly(
            st.just(()),
            st.builds(
                OpenPurchase,
                purchase=st.just("pur_1"),
                state=st.sampled_from(["open", "processing", "succeeded"]),
                since=st.integers(0, 30).map(lambda minutes: NOW - timedelta(minutes=minutes)),
            ).map(lambda purchase: (purchase,)),
        ),
        st.builds(
            AutoRecharge,
            enabled=mostly(st.just(True), st.just(False)),
            threshold_credits=st.integers(0, 100),
            amount_minor=mostly(st.integers(500, 30_000), st.integers(1, 499)),
            currency=mostly(st.just("usd"), st.just("eur")),
            monthly_cap_minor=mostly(st.integers(20_000, 60_000), st.integers(0, 20_000)),
            consent=mostly(st.just(SETTINGS.consent), st.none()),
            payment_method=mostly(st.sampled_from(["pm_a", "pm_b"]), st.sampled_from([None, "pm_c"])),
        ),
    ),
    balance=mostly(
        st.builds(
            Balance,
            version=mostly(st.just(5), st.integers(1, 5)),
            available=st.integers(-200, 200),
            receivable=mostly(st.just(0), st.just(5)),
            receivable_since=st.just(NOW),
            last_entry_version=st.integers(0, 5),
            served_available=st.none() | st.integers(-200, 200),
            served_at=st.sampled_from([None, EARLIER - timedelta(1), NOW]),
            last_purchase_at=st.none(),
        ),
        st.none(),
    ),
    month=st.builds(
        Month,
        mostly(
            st.dictionaries(st.just("usd"), st.integers(1, 30_000)),
            st.dictionaries(st.sampled_from(["usd", "eur"]), st.integers(1, 30_000)),
        ),
        st.booleans(),
    ),
    open_attempt=mostly(st.none(), st.just("att_1")),
    dispute_open_since=mostly(st.none(), st.just(NOW)),
    stopped_cards=mostly(
        st.just(dict[str, str]()), st.dictionaries(st.sampled_from(["pm_a", "pm_b", "pm_c"]), st.just("lost_card"))
    ),
    suspension=mostly(st.none(), st.just(Suspension(NOW, "declined", frozenset("abc")))),
    is_frozen=mostly(st.just(False), st.just(True)),
    inputs_caught_up_at=mostly(st.just(NOW), st.sampled_from([None, NOW - timedelta(minutes=1)])),
    breaker_open_until=mostly(st.none(), st.sampled_from([NOW - timedelta(1), NOW + timedelta(1)])),
    request=mostly(
        st.none(),
        st.builds(Request, st.just("req_1"), st.just(NOW), st.sampled_from([NOW, NOW + timedelta(1)])),
    ),
)


def test_the_generated_situations_include_charges() -> None:
    """Else the property below would be about no charge at all."""
    found = find(situations, lambda situation: isinstance(decide(situation, NOW), Charge))
    assert isinstance(decide(found, NOW), Charge)


@settings(max_examples=500)
@given(situations)
def test_a_charge_is_always_allowed_wanted_and_within_the_cap(situation: Situation) -> None:
    decided = decide(situation, NOW)
    if isinstance(decided, Skip):
        return
    terms, balance = situation.profile.auto_recharge, situation.balance
    assert terms is not None
    assert terms.enabled
    assert terms.consent is not None
    bought = decided.package
    assert bought.currency == terms.currency
    assert bought.price_minor <= terms.amount_minor
    assert situation.month.spent_minor.get(terms.currency, 0) + bought.price_minor <= terms.monthly_cap_minor
    assert not situation.month.spent_minor.keys() - {terms.currency}
    assert any(
        card.payment_method == terms.payment_method
        and card.usable
        and card.payment_method not in situation.stopped_cards
        for card in situation.profile.cards
    )
    assert situation.open_attempt is None
    assert not situation.is_frozen
    assert situation.dispute_open_since is None
    assert situation.suspension is None
    assert not any(each.since + timedelta(minutes=5) > NOW for each in situation.profile.purchases)
    is_requested = situation.request is not None and situation.request.expires_at > NOW
    is_low = balance is not None and balance.available < max(terms.threshold_credits, 1)
    assert is_requested or is_low
    assert balance is None or balance.receivable == 0
