"""Malformed and malicious requests: refused, without an internal error and without an effect on another tenant."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from payments.repository.customers import Customer
from payments.settings import AppSettings
from payments.workflows import purchase_creation
from shared.clock import utc_now
from shared.settings import InvalidSettings, load_settings

CREATE = "/api/stripe/create-payment-intent"
CONFIRM = "/api/stripe/confirm-payment-intent"
Call = Callable[..., Any]
SETTINGS = {"enabled": True, "thresholdCredits": 1, "amountMinor": 5000, "currency": "usd", "monthlyCapMinor": 50_000}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CREATE, {"packageId": "starter\0"}),
        ("POST", CONFIRM, {"purchaseId": "pur_\0", "paymentMethodId": "pm_1"}),
        ("PUT", "/api/credits/auto-recharge", {**SETTINGS, "consent": {"textVersion": "1\0"}}),
        ("DELETE", "/api/stripe/payment-methods/pm_%00", None),
        ("POST", "/api/stripe/payment-methods/pm_%00/default", None),
        ("DELETE", "/api/stripe/payment-methods/" + "a" * 256, None),
    ],
)
async def test_text_that_postgresql_cannot_store_is_refused(call: Call, method: str, path: str, body: Any) -> None:
    response = await call("acme", method, path, body, key="k")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request"), response.text


@pytest.mark.parametrize(
    "position",
    [
        ["2026-01-01T00:00:00+00:00", "entry", "\0"],
        ["2026-01-01T00:00:00+00:00", "\0", "id"],
        ["2026-01-01T00:00:00+00:00", "entry", "\ud800"],
        ["0001-01-01T00:00:00+23:59", "entry", "id"],
        ["9999-12-31T23:59:59-23:59", "entry", "id"],
        ["2026-01-01T00:00:00", "entry", "id"],
        {"at": 1, "kind": 2, "id": 3},
        7,
    ],
)
async def test_an_invented_cursor_is_refused(call: Call, position: Any) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(position).encode()).decode()
    response = await call("acme", "GET", f"/api/credits/history?cursor={cursor}")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor"), response.text


async def test_concurrent_purchases_do_not_exceed_the_limit(
    call: Call, rows: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call("acme", "POST", CREATE, {"packageId": "starter"}, key="first")
    monkeypatch.setattr(purchase_creation, "UNFINISHED_PURCHASES_MAX", 2)
    answers = await asyncio.gather(
        *(call("acme", "POST", CREATE, {"packageId": "starter"}, key=f"k{n}") for n in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429, 429]
    assert await rows("SELECT count(*) FROM purchase") == [(2,)]


def test_no_two_tenants_share_a_stripe_key_for_their_customers() -> None:
    keys = {
        Customer(tenant, generation, {}, None, utc_now()).idempotency_key
        for tenant in ("acme", "acme:2", "2:acme", ":acme")
        for generation in (1, 2, 22)
    }
    assert len(keys) == 12


@pytest.mark.parametrize("key", ["sk_test_0123456789", "rk_live_0123456789", "whsec_0123456789"])
def test_a_secret_key_as_publishable_key_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("STRIPE_PUBLISHABLE_KEY", key)
    with pytest.raises(InvalidSettings, match="STRIPE_PUBLISHABLE_KEY") as refused:
        load_settings(AppSettings, env_file=None)
    assert key not in str(refused.value)
