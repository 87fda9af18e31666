import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.signed_metadata import MARKER, CreditOrder, MetadataRejected, has_marker, sign, verify

KEY, OLD_KEY = "key-of-today-0123456789", "key-of-yesterday-0123456789"

texts = st.text(min_size=1, max_size=40)
amounts = st.integers(1, 2**53)


@st.composite
def orders(draw: st.DrawFn) -> CreditOrder:
    is_purchase = draw(st.booleans())
    name = draw(texts)
    return CreditOrder(
        tenant=draw(texts),
        credits=draw(amounts),
        amount_minor=draw(amounts),
        currency=draw(st.sampled_from(["usd", "eur", "jpy"])),
        expires_in_days=draw(st.none() | st.integers(1, 10_000)),
        purchase=name if is_purchase else None,
        attempt=None if is_purchase else name,
    )


@given(orders())
def test_a_signed_order_is_verified(order: CreditOrder) -> None:
    metadata = sign(order, KEY)
    assert has_marker(metadata)
    assert verify(metadata, [KEY]) == order


@given(orders(), st.data())
def test_any_change_of_a_signed_field_is_rejected(order: CreditOrder, data: st.DataObject) -> None:
    metadata = sign(order, KEY)
    name = data.draw(st.sampled_from(sorted(metadata)))
    value = data.draw(texts)
    assume(value != metadata[name])
    with pytest.raises(MetadataRejected):
        verify({**metadata, name: value}, [KEY])


@given(orders(), st.data())
def test_a_removed_field_is_rejected(order: CreditOrder, data: st.DataObject) -> None:
    metadata = sign(order, KEY)
    del metadata[data.draw(st.sampled_from(sorted(metadata)))]
    with pytest.raises(MetadataRejected):
        verify(metadata, [KEY])


@given(orders(), st.sampled_from(["expires_in_days", "purchase", "attempt"]), texts)
def test_an_added_field_is_rejected(order: CreditOrder, name: str, value: str) -> None:
    metadata = sign(order, KEY)
    assume(name not in metadata)
    with pytest.raises(MetadataRejected):
        verify({**metadata, name: value}, [KEY])


@given(orders(), orders())
def test_the_signature_of_one_order_is_not_valid_for_another(one: CreditOrder, other: CreditOrder) -> None:
    assume(one != other)
    with pytest.raises(MetadataRejected):
        verify({**sign(one, KEY), "sig": sign(other, KEY)["sig"]}, [KEY])


@given(orders())
def test_during_a_rotation_both_keys_verify_and_after_it_the_old_one_does_not(order: CreditOrder) -> None:
    old, new = sign(order, OLD_KEY), sign(order, KEY)
    assert verify(old, [KEY, OLD_KEY]) == verify(new, [KEY, OLD_KEY]) == order
    with pytest.raises(MetadataRejected):
        verify(old, [KEY])


def test_other_metadata_is_ignored() -> None:
    order = CreditOrder("acme", 1, 1, "usd", purchase="pur_1")
    assert verify({**sign(order, KEY), "note": "called on Monday"}, [KEY]) == order


@pytest.mark.parametrize("metadata", [{}, {MARKER: "v1"}, {MARKER: "v1", "sig": ""}, {MARKER: "v1", "sig": "ü"}])
def test_metadata_without_a_valid_signature_is_rejected(metadata: dict[str, str]) -> None:
    with pytest.raises(MetadataRejected):
        verify(metadata, [KEY])


def test_without_keys_every_order_is_rejected() -> None:
    with pytest.raises(MetadataRejected):
        verify(sign(CreditOrder("acme", 1, 1, "usd", purchase="pur_1"), KEY), [])


@pytest.mark.parametrize("names", [{}, {"purchase": "pur_1", "attempt": "att_1"}])
def test_an_order_belongs_to_exactly_one_purchase_or_attempt(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="purchase or of an attempt"):
        CreditOrder("acme", 1, 1, "usd", **names)
