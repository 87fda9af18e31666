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


def test_five_in_a_row_are_borne_and_the_sixth_is_not() -> None:
    budget = PoisonBudget()
    for _ in range(POISON_IN_A_ROW_MAX):
        assert not budget.is_spent
        budget.spend()
    assert budget.is_spent


def test_five_percent_of_a_thousand_are_borne_and_one_more_is_not() -> None:
    budget = PoisonBudget()
    for _ in range(POISON_IN_WINDOW_MAX):
        assert not budget.is_spent
        budget.spend()
        budget.good(1)
    assert budget.is_spent
    budget.good(WINDOW_RECORDS)
    assert not budget.is_spent


def test_one_tenants_refused_records_never_stop_a_partition_and_those_of_six_do() -> None:
    budget = PoisonBudget()
    for _ in range(2 * POISON_IN_WINDOW_MAX):
        assert not budget.is_exceeded_by(RecordRefused("unknown tenant"), "acme")
        budget.set_aside(RecordRefused("unknown tenant"), "acme")
    for tenant in range(POISON_IN_A_ROW_MAX - 1):
        budget.set_aside(RecordRefused("unknown tenant"), f"tenant-{tenant}")
    assert not budget.is_exceeded_by(RecordRefused("unknown tenant"), "acme")
    assert budget.is_exceeded_by(RecordRefused("unknown tenant"), "one-more")
    assert budget.is_exceeded_by(Poison("unreadable"), "acme")


@given(st.lists(st.integers(1, 400), min_size=1))
def test_good_records_alone_never_spend_it(batches: list[int]) -> None:
    budget = PoisonBudget()
    for records in batches:
        budget.good(records)
    assert not budget.is_spent
    assert len(budget.window) <= WINDOW_RECORDS
