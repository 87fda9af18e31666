import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.poison import (
    METADATA_BYTES_MAX,
    POISON_IN_A_ROW_MAX,
    POISON_IN_WINDOW_MAX,
    WINDOW_RECORDS,
    CommittedState,
    PartitionStop,
    Poison,
    PoisonBudget,
    RecordRefused,
)

UNREADABLE = Poison("unreadable")
REFUSED = RecordRefused("unknown tenant")


def test_a_sixth_unreadable_record_in_a_row_exceeds_the_budget() -> None:
    budget = PoisonBudget()
    for offset in range(POISON_IN_A_ROW_MAX):
        assert not budget.is_exceeded_by(UNREADABLE, "acme", offset)
        budget.count_dead_letter(UNREADABLE, "acme", offset)
    assert budget.is_exceeded_by(UNREADABLE, "acme", POISON_IN_A_ROW_MAX)
    budget.count_handled(POISON_IN_A_ROW_MAX)
    assert not budget.is_exceeded_by(UNREADABLE, "acme", POISON_IN_A_ROW_MAX + 1)


def test_a_51st_unreadable_record_within_1000_offsets_exceeds_the_budget() -> None:
    budget = PoisonBudget()
    for offset in range(0, 2 * POISON_IN_WINDOW_MAX, 2):
        assert not budget.is_exceeded_by(UNREADABLE, "acme", offset)
        budget.count_dead_letter(UNREADABLE, "acme", offset)
        budget.count_handled(offset + 1)
    assert budget.is_exceeded_by(UNREADABLE, "acme", WINDOW_RECORDS - 1)
    assert not budget.is_exceeded_by(UNREADABLE, "acme", WINDOW_RECORDS)


def test_a_redelivered_record_is_counted_once() -> None:
    budget = PoisonBudget()
    for _ in range(2 * POISON_IN_A_ROW_MAX):
        assert not budget.is_exceeded_by(UNREADABLE, "acme", 7)
        budget.count_dead_letter(UNREADABLE, "acme", 7)
    assert budget.unreadable == [7]


def test_accepted_records_are_not_counted_and_later_ones_are() -> None:
    budget = PoisonBudget()
    for offset in range(POISON_IN_A_ROW_MAX):
        budget.count_dead_letter(UNREADABLE, "acme", offset)
    budget.accepted_to = 100
    for offset in range(POISON_IN_A_ROW_MAX, 100):
        assert not budget.is_exceeded_by(UNREADABLE, "acme", offset)
        budget.count_dead_letter(UNREADABLE, "acme", offset)
    assert budget.is_exceeded_by(UNREADABLE, "acme", 100)


def test_refused_records_of_one_tenant_never_exceed_the_budget() -> None:
    budget = PoisonBudget()
    for offset in range(20 * WINDOW_RECORDS):
        assert not budget.is_exceeded_by(REFUSED, "acme", offset)
        budget.count_dead_letter(REFUSED, "acme", offset)
    assert len(budget.refused) == 1


def test_refused_records_of_a_51st_tenant_within_1000_offsets_exceed_the_budget() -> None:
    budget = PoisonBudget()
    for tenant in range(POISON_IN_WINDOW_MAX):
        assert not budget.is_exceeded_by(REFUSED, f"tenant-{tenant}", tenant)
        budget.count_dead_letter(REFUSED, f"tenant-{tenant}", tenant)
    assert not budget.is_exceeded_by(REFUSED, "tenant-0", POISON_IN_WINDOW_MAX)
    assert budget.is_exceeded_by(REFUSED, "one-more", POISON_IN_WINDOW_MAX)
    assert budget.is_exceeded_by(UNREADABLE, "tenant-0", POISON_IN_WINDOW_MAX)


def test_refused_records_do_not_interrupt_a_row_of_unreadable_ones() -> None:
    budget = PoisonBudget()
    for n in range(POISON_IN_A_ROW_MAX):
        budget.count_dead_letter(UNREADABLE, "acme", WINDOW_RECORDS * n)
        budget.count_dead_letter(REFUSED, f"tenant-{n}", WINDOW_RECORDS * n + 1)
    assert budget.is_exceeded_by(UNREADABLE, "acme", WINDOW_RECORDS * POISON_IN_A_ROW_MAX)


@given(st.lists(st.integers(1, 400), min_size=1))
def test_handled_records_do_not_use_up_the_budget(batches: list[int]) -> None:
    budget = PoisonBudget()
    offset = 0
    for records in batches:
        offset += records
        budget.count_handled(offset)
    assert not budget.is_exceeded_by(UNREADABLE, "acme", offset + 1)
    assert CommittedState(budget).to_metadata() == ""


@given(st.lists(st.tuples(st.sampled_from(["handled", "unreadable", "refused"]), st.integers(0, 99))))
def test_a_committed_state_survives_restarts(records: list[tuple[str, int]]) -> None:
    kept, restarted = CommittedState(), CommittedState()
    for offset, (outcome, tenant) in enumerate(records):
        error = REFUSED if outcome == "refused" else UNREADABLE
        for state in (kept, restarted):
            if outcome == "handled":
                state.budget.count_handled(offset)
            elif not state.budget.is_exceeded_by(error, f"tenant-{tenant}", offset):
                state.budget.count_dead_letter(error, f"tenant-{tenant}", offset)
        restarted = CommittedState.from_metadata(restarted.to_metadata())
        for error in (UNREADABLE, REFUSED):
            assert kept.budget.is_exceeded_by(error, "another", offset + 1) == restarted.budget.is_exceeded_by(
                error, "another", offset + 1
            )


def test_the_largest_state_fits_into_offset_metadata() -> None:
    """With offsets of 19 digits, 50 tenants, and a reason whose characters JSON encodes as six bytes each."""
    first = 2**63 - WINDOW_RECORDS
    budget = PoisonBudget(handled_offset=first)
    for n in range(POISON_IN_WINDOW_MAX):
        budget.count_dead_letter(REFUSED, f"tenant-{n}", first + n)
    state = CommittedState(budget, PartitionStop(first + WINDOW_RECORDS, "\0" * 1_000))
    metadata = state.to_metadata()
    assert len(metadata.encode()) <= METADATA_BYTES_MAX
    assert CommittedState.from_metadata(metadata).budget == budget


@pytest.mark.parametrize(
    "metadata",
    ["", "somebody's note", "[]", "null", '"v"', "{}", '{"v":1}', '{"v":2,"good":1}', '{"v":1,"good":"x"}',
     '{"v":1,"good":1,"unreadable":null,"refused":{}}', '{"v":1,"good":1,"unreadable":[],"refused":{},"stop":3}'],
)  # fmt: skip
def test_foreign_metadata_decodes_to_an_empty_state(metadata: str) -> None:
    assert CommittedState.from_metadata(metadata) == CommittedState()
