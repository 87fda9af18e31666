"""HTTP clients of a running stack: a tenant's admin, its browser with Stripe.js, and the product."""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from shared.auth import Scope, mint_development_token
from shared.ids import new_id

TIMEOUT_S = 30.0
TOKEN_LIFETIME_S = 8 * 60 * 60


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running stack answers."""

    gateway: str
    payments: str
    ledger: str
    recharge: str
    stripe: str
    publishable_key: str
    jwt_secret: str


class Refused(Exception):
    """An error answer. `problem` is its body: an RFC 9457 problem, or Stripe's error."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('code')}: {problem.get('detail')}")
        self.status = status
        self.problem = problem


def token_for(addresses: Addresses, tenant: str | None, *scopes: Scope) -> str:
    """A development token, good for eight hours."""
    expires_at = int(time.time()) + TOKEN_LIFETIME_S
    subject = "product" if tenant is None else f"admin-of-{tenant}"
    return mint_development_token(
        addresses.jwt_secret, subject=subject, tenant=tenant, scopes=scopes, expires_at=expires_at
    )


async def answer(response: httpx.Response) -> Any:
    """The JSON of a 2xx answer; raises `Refused` for any other."""
    if response.is_success:
        return response.json() if response.content else None
    body: Any = response.json() if "json" in response.headers.get("content-type", "") else {"detail": response.text}
    raise Refused(response.status_code, body)


class Tenant:
    """A tenant's admin on the billing page, and the browser in which a card is entered."""

    def __init__(self, addresses: Addresses, http: httpx.AsyncClient, tenant: str) -> None:
        self.name = tenant
        self._addresses = addresses
        self._http = http
        token = token_for(addresses, tenant, Scope.BILLING_READ, Scope.BILLING_WRITE, Scope.CREDITS_DEBIT)
        self._headers = {"Authorization": f"Bearer {token}"}

    async def packages(self) -> list[dict[str, Any]]:
        """The packages for sale."""
        return (await self._get(self._addresses.payments, "/api/credits/packages"))["packages"]

    async def create_purchase(self, package: str, *, save_card: bool = False, key: str | None = None) -> dict[str, Any]:
        """A purchase that waits for a card. `key` is the Idempotency-Key; a new one unless given."""
        return await self._post(
            self._addresses.payments,
            "/api/stripe/create-payment-intent",
            {"packageId": package, "saveCard": save_card},
            key or new_id("key"),
        )

    async def pay_in_browser(self, purchase: dict[str, Any], card: str = "pm_card_visa") -> dict[str, Any]:
        """What Stripe.js does: confirms with the publishable key and the client secret, straight at Stripe."""
        response = await self._http.post(
            f"{self._addresses.stripe}/v1/payment_intents/{purchase['paymentIntentId']}/confirm",
            data={"client_secret": purchase["clientSecret"], "payment_method": card},
            headers={"Authorization": f"Bearer {self._addresses.publishable_key}"},
        )
        return await answer(response)

    async def buy(self, package: str, *, card: str = "pm_card_visa", save_card: bool = False) -> dict[str, Any]:
        """Creates a purchase and pays it."""
        purchase = await self.create_purchase(package, save_card=save_card)
        await self.pay_in_browser(purchase, card)
        return purchase

    async def save_card(self, card: str) -> dict[str, Any]:
        """Saves a card by a SetupIntent, confirmed in the browser."""
        setup = await self._post(self._addresses.payments, "/api/stripe/create-setup-intent", {}, new_id("key"))
        response = await self._http.post(
            f"{self._addresses.stripe}/v1/setup_intents/{setup['setupIntentId']}/confirm",
            data={"client_secret": setup["clientSecret"], "payment_method": card},
            headers={"Authorization": f"Bearer {self._addresses.publishable_key}"},
        )
        return await answer(response)

    async def cards(self) -> list[dict[str, Any]]:
        """The saved cards."""
        return (await self._get(self._addresses.payments, "/api/stripe/payment-methods"))["paymentMethods"]

    async def set_auto_recharge(
        self, *, threshold_credits: int, amount_minor: int, monthly_cap_minor: int, currency: str = "usd"
    ) -> dict[str, Any]:
        """Turns auto-recharge on, with consent."""
        response = await self._http.put(
            f"{self._addresses.payments}/api/credits/auto-recharge",
            json={
                "enabled": True,
                "thresholdCredits": threshold_credits,
                "amountMinor": amount_minor,
                "currency": currency,
                "monthlyCapMinor": monthly_cap_minor,
                "consent": {"textVersion": "2026-01"},
            },
            headers=self._headers,
        )
        return await answer(response)

    async def confirm_with_saved_card(self, purchase: str, card: str) -> dict[str, Any]:
        """Pays a purchase with a saved card, through the payments API."""
        body = {"purchaseId": purchase, "paymentMethodId": card}
        return await self._post(self._addresses.payments, "/api/stripe/confirm-payment-intent", body, new_id("key"))

    async def debit_other_tenant(self, tenant: str, credits: int) -> dict[str, Any]:
        """Tries to spend another tenant's credits with this tenant's token; must be refused."""
        body = {"tenantId": tenant, "reference": new_id("job"), "credits": credits}
        return await self._post(self._addresses.ledger, "/api/ledger/debits", body, new_id("key"))

    async def balance(self) -> dict[str, Any]:
        """The ledger's balance; `Refused` 404 before the first credit."""
        return await self._get(self._addresses.ledger, "/api/ledger/balance")

    async def available(self) -> int:
        """The credits that may be spent now; 0 before the first credit."""
        try:
            return int((await self.balance())["available"])
        except Refused as refused:
            if refused.status == 404:
                return 0
            raise

    async def attempts(self) -> list[dict[str, Any]]:
        """Recharge's attempts for this tenant, newest first."""
        return (await self._get(self._addresses.recharge, "/api/recharge/attempts"))["attempts"]

    async def decisions(self) -> list[dict[str, Any]]:
        """Recharge's decisions, with their reasons, newest first."""
        return (await self._get(self._addresses.recharge, "/api/recharge/decisions"))["decisions"]

    async def _get(self, base: str, path: str) -> Any:
        return await answer(await self._http.get(base + path, headers=self._headers))

    async def _post(self, base: str, path: str, body: dict[str, Any], key: str) -> Any:
        headers = {**self._headers, "Idempotency-Key": key}
        return await answer(await self._http.post(base + path, json=body, headers=headers))


class Product:
    """The product, which spends its customers' credits."""

    def __init__(self, addresses: Addresses, http: httpx.AsyncClient) -> None:
        self._addresses = addresses
        self._http = http
        self._headers = {"Authorization": f"Bearer {token_for(addresses, None, Scope.CREDITS_DEBIT_ANY)}"}

    async def debit(
        self, tenant: str, credits: int, *, reference: str | None = None, purpose: str = "demo"
    ) -> dict[str, Any]:
        """Debits over HTTP; `Refused` 402 where the balance does not suffice."""
        body = {
            "tenantId": tenant,
            "reference": reference or new_id("job"),
            "credits": credits,
            "purpose": purpose,
        }
        response = await self._http.post(
            f"{self._addresses.ledger}/api/ledger/debits", json=body, headers=self._headers
        )
        return await answer(response)
