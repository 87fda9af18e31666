from hypothesis import given
from hypothesis import strategies as st

from shared.poison import (
    POISON_IN_A_ROW_MAX,
    POISON_IN_WINDOW_MAX,
    WINDOW_RECORDS,
    Poison,
    PoisonBudget,
    RecordRefused,
)

UNREADABLE = Poison("unreadable")
REFUSED = RecordRefused("unknown tenant")


def test_five_in_a_row_are_borne_and_the_sixth_is_not() -> None:
    budget = PoisonBudget()
    for _ in range(POISON_IN_A_ROW_MAX):
        assert not budget.is_exceeded_by(UNREADABLE, "acme")
        budget.set_aside(UNREADABLE, "acme")
    assert budget.is_exceeded_by(UNREADABLE, "acme")


def test_five_percent_of_a_thousand_are_borne_and_one_more_is_not() -> None:
    budget = PoisonBudget()
    for _ in range(POISON_IN_WINDOW_MAX):
        assert not budget.is_exceeded_by(UNREADABLE, "acme")
        budget.set_aside(UNREADABLE, "acme")
        budget.good(1)
    assert budget.is_exceeded_by(UNREADABLE, "acme")
    budget.good(WINDOW_RECORDS)
    assert not budget.is_exceeded_by(UNREADABLE, "acme")


def test_refused_records_of_one_tenant_never_stop_a_partition() -> None:
    budget = PoisonBudget()
    for _ in range(2 * POISON_IN_WINDOW_MAX):
        assert not budget.is_exceeded_by(REFUSED, "acme")
        budget.set_aside(REFUSED, "acme")
    assert list(budget.window) == [True]


def test_refused_records_of_many_tenants_in_a_row_are_borne_until_they_are_five_percent_of_a_thousand() -> None:
    budget = PoisonBudget()
    for tenant in range(POISON_IN_WINDOW_MAX):
        assert not budget.is_exceeded_by(REFUSED, f"tenant-{tenant}")
        budget.set_aside(REFUSED, f"tenant-{tenant}")
    assert not budget.is_exceeded_by(REFUSED, "tenant-0")
    assert budget.is_exceeded_by(REFUSED, "one-more")
    assert budget.is_exceeded_by(UNREADABLE, "tenant-0")


def test_refused_records_between_unreadable_ones_do_not_make_those_harmless() -> None:
    budget = PoisonBudget()
    for tenant in range(POISON_IN_A_ROW_MAX):
        budget.set_aside(UNREADABLE, "acme")
        budget.set_aside(REFUSED, f"tenant-{tenant}")
    assert budget.is_exceeded_by(UNREADABLE, "acme")


@given(st.lists(st.integers(1, 400), min_size=1))
def test_good_records_alone_never_spend_it(batches: list[int]) -> None:
    budget = PoisonBudget()
    for records in batches:
        budget.good(records)
    assert not budget.is_exceeded_by(UNREADABLE, "acme")
    assert len(budget.window) <= WINDOW_RECORDS
