"""A card's state does not depend on the order of its events."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from payments.core.cards import (
    CardDetails,
    CardState,
    SavedCard,
    apply_retrieval,
    attach,
    detach,
    next_default,
    remove,
    set_up,
)

START = datetime(2026, 9, 1, tzinfo=UTC)
NOW = START + timedelta(hours=1)
VISA = CardDetails("visa", "4242", 12, 2030, "fp")


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def attached(card: SavedCard | None, second: int, details: CardDetails = VISA) -> SavedCard:
    return attach(card, "pm_1", details, created=at(second), now=NOW)


def answered(card: SavedCard, details: CardDetails | None) -> SavedCard:
    return apply_retrieval(card, details, asked=card, now=NOW)


@given(st.permutations([(1, 2030), (2, 2031), (3, 2032)] * 2))
def test_the_newest_details_win_in_any_order_and_duplicated(order: list[tuple[int, int]]) -> None:
    card = None
    for second, year in order:
        card = attached(card, second, replace(VISA, exp_year=year))
    assert card == SavedCard("pm_1", CardState.ATTACHED, replace(VISA, exp_year=2032), at(3), None)


def test_a_detached_card_stays_detached() -> None:
    detached = detach(attached(None, 1))
    assert attached(detached, 9) == detached
    assert apply_retrieval(detached, VISA, asked=attached(None, 1), now=NOW) == detached
    assert set_up(detached, "pm_1", now=NOW) == detached


def test_a_tie_with_other_details_needs_a_retrieval_and_a_duplicate_does_not() -> None:
    card = attached(None, 1)
    assert attached(card, 1) == card
    tied = attached(card, 1, replace(VISA, exp_year=2031))
    assert (tied.details, tied.look_at) == (VISA, NOW)
    retrieved = answered(tied, replace(VISA, exp_year=2031))
    assert (retrieved.details, retrieved.look_at) == (replace(VISA, exp_year=2031), None)


def test_a_retrieval_that_may_be_older_than_an_event_is_repeated() -> None:
    asked = replace(attached(None, 1), look_at=at(90))
    newest = replace(VISA, exp_year=2033)
    for changed in (attached(asked, 1, newest), attached(asked, 2, newest)):
        answer = apply_retrieval(changed, replace(VISA, exp_year=2032), asked=asked, now=NOW)
        assert (answer.details, answer.seen_at, answer.look_at) == (changed.details, changed.seen_at, NOW)
        assert answered(answer, newest).details == newest
    assert apply_retrieval(attached(asked, 2, newest), None, asked=asked, now=NOW).state is CardState.DETACHED


def test_a_card_without_details_is_retrieved_and_not_usable_until_then() -> None:
    without_details = set_up(None, "pm_1", now=NOW)
    assert (without_details.is_usable, without_details.look_at) == (False, NOW)
    assert answered(without_details, VISA).is_usable
    assert attached(without_details, 1).is_usable and attached(without_details, 1).look_at is None
    assert answered(without_details, None).state is CardState.DETACHED


def test_a_removed_card_is_never_usable_again() -> None:
    removed = remove(attached(None, 1), now=NOW)
    assert not removed.is_usable
    assert not attached(removed, 9, replace(VISA, exp_year=2040)).is_usable
    assert remove(removed, now=NOW + timedelta(hours=1)) == removed


def test_the_first_usable_card_becomes_the_default_and_no_other_card_replaces_it() -> None:
    first, second = attached(None, 1), replace(attached(None, 1), payment_method="pm_2")
    assert next_default(None, None, first) == "pm_1"
    assert next_default("pm_1", None, second) == "pm_1"
    assert next_default("pm_1", first, detach(first)) is None
    assert next_default(None, second, replace(second, seen_at=at(5))) is None
    assert next_default("pm_2", first, detach(first)) == "pm_2"
    assert next_default(None, None, set_up(None, "pm_3", now=NOW)) is None
