"""Random histories of cards, consents, declines, refused debits and purchases. Recharge plays each on real PostgreSQL
and the Stripe simulator, and a small model that shares no rule with it plays it too.

A card that its owner has removed or did not choose is never charged. While recharge is on, needed and allowed,
something happens within 10 minutes.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.handlers import on_entries
from shared.events import Card, EntryPosted, OpenPurchase
from shared.ids import new_id
from shared.signed_metadata import CreditOrder, sign

IS_FULL = os.environ.get("PREPAID_SOAK") == "full"
MINUTE = timedelta(minutes=1)
NOTHING_HAPPENS_MAX = timedelta(minutes=10)
#: How often a history is checked. What is due may be seen so much later.
TICK = MINUTE
#: The most that one recharge costs with these settings: so much must be left of the cap.
PRICE_MINOR = 4_500

Bank = Literal["good", "insufficient_funds", "lost_card"]
Step = tuple[str, Any]

steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("debit"), st.sampled_from([30, 200, 900])),
    st.tuples(st.just("debit"), st.sampled_from([30, 200, 900])),
    st.tuples(st.just("overdraw"), st.sampled_from([500, 4_000])),
    st.tuples(st.just("wait"), st.sampled_from([1, 4, 12])),
    st.tuples(st.just("wait"), st.sampled_from([1, 4, 12])),
    st.tuples(st.just("enter_card"), st.sampled_from(["pm_card_visa", "pm_card_mastercard"])),
    st.tuples(st.just("choose"), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.integers(0, 3)),
    st.tuples(st.just("consent"), st.none()),
    st.tuples(st.just("enable"), st.booleans()),
    st.tuples(st.just("threshold"), st.sampled_from([0, 50, 3_000])),
    st.tuples(st.just("bank"), st.sampled_from(["good", "insufficient_funds", "lost_card"])),
    st.tuples(st.just("bank"), st.just("good")),
    st.tuples(st.just("buy"), st.integers(0, 3)),
    st.tuples(st.just("leave_checkout"), st.sampled_from(["open", "processing"])),
    st.tuples(st.just("network_update"), st.integers(0, 3)),
)


@dataclass
class History:
    """One tenant, as its owner, its bank, its product and the clock see it."""

    environment: RechargeEnvironment
    tenant: str
    cap_minor: int
    bank: dict[str, Bank] = field(default_factory=dict[str, Bank])
    #: Cards, by fingerprint, that may have been declined, how, and which payment method it was.
    declined: dict[str, tuple[Bank, str]] = field(default_factory=dict[str, tuple[Bank, str]])
    proven: set[str] = field(default_factory=set[str])
    purchases: dict[str, OpenPurchase] = field(default_factory=dict[str, OpenPurchase])
    seen: set[str] = field(default_factory=set[str])
    #: By month, as the cap counts.
    charged: Counter[str] = field(default_factory=Counter[str])
    idle_since: datetime | None = None
    charges: int = 0

    # what the model knows

    @property
    def cards(self) -> list[Card]:
        return list(self.environment.profiles[self.tenant].cards)

    @property
    def month(self) -> str:
        return f"{self.environment.now:%Y-%m}"

    @property
    def available(self) -> int:
        return self.environment.balances[self.tenant].available

    def chosen(self) -> Card | None:
        terms = self.environment.profiles[self.tenant].auto_recharge
        assert terms is not None
        return next((card for card in self.cards if card.payment_method == terms.payment_method), None)

    def is_on_and_needed(self) -> bool:
        terms = self.environment.profiles[self.tenant].auto_recharge
        assert terms is not None
        return terms.enabled and (self.available < terms.threshold_credits or self.available <= 0)

    def is_allowed(self) -> bool:
        card = self.chosen()
        return (
            card is not None
            and self.bank[card.payment_method] == "good"
            and (card.fingerprint or "") not in self.declined
            and self.charged[self.month] + PRICE_MINOR <= self.cap_minor
            and not any(self.may_pay_soon(each) for each in self.purchases.values())
        )

    def may_pay_soon(self, purchase: OpenPurchase) -> bool:
        """Its buyer may be paying it, or its bank may be processing it."""
        age = self.environment.now - purchase.since
        return age < timedelta(minutes=5 if purchase.state == "open" else 10)

    def card_may_be_declined(self) -> None:
        card = self.chosen()
        if card is None or not self.is_on_and_needed() or (bank := self.bank[card.payment_method]) == "good":
            return
        name = card.fingerprint or ""
        if self.declined.get(name, ("", ""))[0] != "lost_card" or bank == "lost_card":
            self.declined[name] = (bank, card.payment_method)
            self.proven.clear()

    def owner_consents(self) -> None:
        """A card whose decline was for good counts again only if it was entered again, or has paid."""
        card = self.chosen()
        how, payment_method = self.declined.get(card.fingerprint or "", ("good", "")) if card else ("good", "")
        if card is None or (
            how == "lost_card" and card.payment_method == payment_method and payment_method not in self.proven
        ):
            return
        self.declined.pop(card.fingerprint or "", None)

    def proves_good(self, card: Card) -> None:
        self.proven.add(card.payment_method)
        if self.chosen() == card:
            self.declined.pop(card.fingerprint or "", None)

    # steps

    async def play_step(self, step: str, value: Any) -> None:
        """One step, or nothing if it is not possible now."""
        await getattr(self, step)(value)
        await self.check()

    def pick(self, number: int) -> Card | None:
        return self.cards[number % len(self.cards)] if self.cards else None

    async def debit(self, credits: int) -> None:
        if credits <= self.available:  # else the product is refused, and recharge is not informed
            await self.environment.balance(self.tenant, self.available - credits)

    async def overdraw(self, credits: int) -> None:
        await self.environment.balance(self.tenant, self.available - credits)

    async def wait(self, minutes: int) -> None:
        for _ in range(minutes):
            self.environment.advance_clock(TICK)
            for name, purchase in list(self.purchases.items()):
                if self.environment.now - purchase.since > timedelta(minutes=30):
                    del self.purchases[name]
                    await self.publish_purchases()
            await self.check()

    async def enter_card(self, card: str) -> None:
        customer = self.environment.profiles[self.tenant].stripe_customer or ""
        saved = await self.environment.save_card(customer, card)
        self.bank[saved.payment_method] = "good"
        await self.environment.profile(self.tenant, cards=(*self.cards, saved))
        await self.choose(len(self.cards) - 1)

    async def choose(self, number: int) -> None:
        card = self.pick(number)
        if card is not None:
            await self.environment.settings(self.tenant, payment_method=card.payment_method)
            self.owner_consents()

    async def remove(self, number: int) -> None:
        card = self.pick(number)
        if card is None:
            return
        await self.environment.stripe.v1.payment_methods.detach_async(card.payment_method)
        terms = self.environment.profiles[self.tenant].auto_recharge
        assert terms is not None
        if terms.payment_method == card.payment_method:
            terms = terms.model_copy(update={"payment_method": None})
        left = tuple(each for each in self.cards if each != card)
        await self.environment.profile(self.tenant, cards=left, auto_recharge=terms)

    async def consent(self, _nothing: None) -> None:
        await self.environment.settings(self.tenant)
        self.owner_consents()

    async def enable(self, is_enabled: bool) -> None:
        await self.environment.settings(self.tenant, enabled=is_enabled)
        self.owner_consents()

    async def threshold(self, credits: int) -> None:
        await self.environment.settings(self.tenant, threshold_credits=credits)
        self.owner_consents()

    async def set_bank(self, card: Card, bank: Bank) -> None:
        body = {} if bank == "good" else {"decline_code": bank}
        self.environment.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", **body)
        self.bank[card.payment_method] = bank

    async def buy(self, number: int) -> None:
        """Its owner pays for a purchase with a card."""
        card = self.pick(number)
        if card is None or self.bank[card.payment_method] != "good":
            return
        self.environment.advance_clock(TICK)  # evidence about a card has to be later than its decline, in whole seconds
        order = CreditOrder(tenant=self.tenant, credits=100, amount_minor=500, currency="usd", purchase=new_id("pur"))
        paid = await self.environment.stripe.v1.payment_intents.create_async(
            {
                "amount": 500, "currency": "usd",
                "customer": self.environment.profiles[self.tenant].stripe_customer or "",
                "payment_method": card.payment_method, "confirm": True, "metadata": sign(order, SIGNING_KEY),
                "return_url": "https://example.com/billing",
            }
        )  # fmt: skip
        assert paid.status == "succeeded"
        self.proves_good(card)
        await self.environment.webhooks(self.tenant)
        await self.check()

    async def network_update(self, number: int) -> None:
        card = self.pick(number)
        if card is not None:
            self.environment.advance_clock(TICK)
            self.environment.simulator.post(f"/payment_methods/{card.payment_method}/automatic_update", exp_year=2041)
            self.proves_good(card)
            await self.environment.webhooks(self.tenant)

    async def leave_checkout(self, state: Literal["open", "processing"]) -> None:
        name = new_id("pur")
        self.purchases[name] = OpenPurchase(purchase=name, state=state, since=self.environment.now)
        await self.publish_purchases()

    async def publish_purchases(self) -> None:
        played = tuple(self.purchases.values())
        names = tuple(each.purchase for each in played)
        await self.environment.profile(self.tenant, purchases=played, open_purchases=names)

    # invariants

    async def check(self) -> None:
        """Lets recharge work, credits what it has charged, and checks its promises."""
        self.card_may_be_declined()
        chosen = self.chosen()
        await self.environment.decide_again()
        await self.environment.work()
        new = [charge for charge in self.environment.charges(self.tenant) if charge["payment_intent"] not in self.seen]
        for charge in new:
            self.seen.add(charge["payment_intent"])
            await self.credit(charge)
            if "attempt" in charge["metadata"]:
                assert chosen is not None, "charged, and no card is chosen"
                assert charge["payment_method"] == chosen.payment_method, "a card that its owner did not choose"
                self.charged[self.month] += charge["amount_minor"]
                self.charges += 1
                self.idle_since = None
        assert self.charged[self.month] <= self.cap_minor
        assert sum("attempt" in charge["metadata"] for charge in new) <= 1, "twice for one need"
        if not (self.is_on_and_needed() and self.is_allowed()):
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = self.environment.now
        elif self.environment.now - self.idle_since > NOTHING_HAPPENS_MAX + TICK:
            attempts = await self.environment.attempts(self.tenant)
            why = await self.environment.last_reason(self.tenant)
            raise AssertionError(f"on, needed and allowed, and nothing happens: {why}, {attempts[-1:]}")

    async def credit(self, charge: dict[str, Any]) -> None:
        metadata, balance = charge["metadata"], self.environment.balances[self.tenant]
        entry = EntryPosted(
            tenant=self.tenant, reference=charge["payment_intent"], door="stripe",
            kind="recharge" if "attempt" in metadata else "purchase", credits=int(metadata["credits"]),
            amount_minor=charge["amount_minor"], currency=charge["currency"], payment_intent=charge["payment_intent"],
            attempt=metadata.get("attempt"), purchase=metadata.get("purchase"), balance_version=balance.version + 1,
            posted_at=self.environment.now,
        )  # fmt: skip
        await self.environment.receive(on_entries, entry)
        await self.environment.balance(self.tenant, balance.available + entry.credits)


async def _play(environment: RechargeEnvironment, history: list[Step], cap_minor: int) -> History:
    tenant = await environment.tenant("pm_card_visa", available=100, monthly_cap_minor=cap_minor)
    played = History(environment, tenant, cap_minor)
    played.bank[environment.profiles[tenant].cards[0].payment_method] = "good"
    for step, value in [*history, ("wait", 12)]:
        if step == "bank":
            card = played.chosen()
            if card is not None:
                await played.set_bank(card, value)
        else:
            await played.play_step(step, value)
    return played


@pytest.mark.timeout(3600 if IS_FULL else 300)
@settings(
    max_examples=400 if IS_FULL else 10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=st.lists(steps, min_size=6, max_size=14), cap_minor=st.sampled_from([1_000_000, 14_000]))
async def test_in_every_history_only_the_chosen_card_is_charged_and_a_need_is_served_in_time(
    environment: RechargeEnvironment, history: list[Step], cap_minor: int
) -> None:
    played = await _play(environment, history, cap_minor)
    note(f"{played.charges} charges")


async def test_the_generated_histories_include_charges_after_every_kind_of_step(
    environment: RechargeEnvironment,
) -> None:
    """Else the property above would be about no charge at all."""
    history: list[Step] = [
        ("debit", 60), ("debit", 900), ("bank", "lost_card"), ("debit", 200), ("debit", 30), ("overdraw", 4_000),
        ("wait", 12), ("bank", "good"), ("enter_card", "pm_card_visa"), ("wait", 1),
        ("enter_card", "pm_card_mastercard"),
        ("overdraw", 500), ("remove", 1), ("overdraw", 4_000), ("wait", 4), ("choose", 0), ("network_update", 0),
        ("leave_checkout", "processing"), ("overdraw", 500), ("wait", 12), ("buy", 0),
        ("threshold", 3_000), ("wait", 12),
    ]  # fmt: skip
    played = await _play(environment, history, 1_000_000)
    assert played.charges >= 6
