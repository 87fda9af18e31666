import hashlib
import hmac
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.webhooks import signature
from webhook_gateway.core.signature import HEADER_BYTES_MAX, TOLERANCE_S, SignatureRejected, read_header
from webhook_gateway.core.signature import verify as verify_claim

NOW = 1_800_000_000.0
BODY = b'{\n  "id": "evt_1"\n}'

bodies = st.binary(max_size=2_000)
keys = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=60)


def verify(header: bytes | None, body: bytes, secrets: Sequence[bytes], now: float) -> None:
    verify_claim(read_header(header, now), body, secrets)


def refusal(header: bytes | None, body: bytes = BODY, *secrets: bytes, now: float = NOW) -> str:
    with pytest.raises(SignatureRejected) as caught:
        verify(header, body, secrets or (b"whsec_a",), now)
    return caught.value.code


@given(bodies, keys, st.integers(-TOLERANCE_S, TOLERANCE_S))
def test_a_signature_within_the_tolerance_is_accepted(body: bytes, key: str, age_s: int) -> None:
    verify(signature(body, key, at=NOW - age_s).encode(), body, [key.encode()], NOW)


@given(bodies, bodies, keys)
def test_another_body_is_refused(body: bytes, other: bytes, key: str) -> None:
    if body != other:
        assert refusal(signature(body, key, at=NOW).encode(), other, key.encode()) == "signature_invalid"


@given(bodies, keys, keys)
def test_another_secret_is_refused(body: bytes, key: str, other: str) -> None:
    if key != other:
        assert refusal(signature(body, other, at=NOW).encode(), body, key.encode()) == "signature_invalid"


@given(st.binary(max_size=300))
def test_any_other_header_is_refused_with_a_code(header: bytes) -> None:
    assert refusal(header) in {"signature_missing", "signature_malformed", "signature_invalid", "signature_stale"}


@given(st.data(), bodies, keys)
def test_one_changed_bit_is_refused(data: st.DataObject, body: bytes, key: str) -> None:
    header = bytearray(signature(body, key, at=NOW).encode())
    index = data.draw(st.integers(0, len(header) - 1))
    header[index] ^= 1 << data.draw(st.integers(0, 7))
    refusal(bytes(header), body, key.encode())


@pytest.mark.parametrize("age_s", [TOLERANCE_S + 1, -TOLERANCE_S - 1, 10**9])
def test_a_timestamp_far_from_the_clock_is_stale_on_either_side(age_s: int) -> None:
    assert refusal(signature(BODY, "whsec_a", at=NOW - age_s).encode()) == "signature_stale"


def test_during_a_rotation_either_secret_and_either_v1_entry_is_accepted() -> None:
    both = signature(BODY, "whsec_old", "whsec_new", at=NOW).encode()
    for ours in ([b"whsec_old"], [b"whsec_new"], [b"whsec_x", b"whsec_new"]):
        verify(both, BODY, ours, NOW)
    verify(signature(BODY, "whsec_new", at=NOW).encode(), BODY, [b"whsec_old", b"whsec_new"], NOW)


def test_entries_of_other_schemes_are_ignored_and_never_suffice() -> None:
    good = signature(BODY, "whsec_a", at=NOW)
    verify(good.replace(",v1", ",v0=00,v1").encode(), BODY, [b"whsec_a"], NOW)
    assert refusal(good.replace("v1=", "v0=").encode()) == "signature_malformed"


def test_the_timestamp_is_part_of_what_is_signed() -> None:
    digest = hmac.new(b"whsec_a", f"{NOW:.0f}.".encode() + BODY, hashlib.sha256).hexdigest()
    verify(f"t={NOW:.0f},v1={digest}".encode(), BODY, [b"whsec_a"], NOW)
    assert refusal(f"t={NOW + 1:.0f},v1={digest}".encode()) == "signature_invalid"


@pytest.mark.parametrize(
    "header",
    [
        b"t=1800000000",
        b"v1=00",
        b"t=,v1=00",
        b"t=-1,v1=00",
        b"t=1e9,v1=00",
        b"t=1800000000,t=1800000000,v1=00",
        b"t=" + b"9" * 5_000 + b",v1=00",
        b"t=1800000000" + b",v1=00" * HEADER_BYTES_MAX,
    ],
)
def test_a_header_of_another_form_is_malformed(header: bytes) -> None:
    assert refusal(header) == "signature_malformed"


@pytest.mark.parametrize("header", [None, b""])
def test_an_absent_header_is_signature_missing(header: bytes | None) -> None:
    assert refusal(header) == "signature_missing"
