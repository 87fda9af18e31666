"""Answers that are not Stripe's are not used."""

import pytest

from ledger.stripe_gateway import Listed, StripeGateway, StripeGaveNoAnswer
from stripe_simulator.proxies import PAGES, Page, proxy

from .test_waiting_reversals import stripe_at


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_an_answer_that_is_not_stripes_is_no_answer(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.stripe_gateway.PAGE_PAUSE_S", 0.0)
    with proxy(page) as url:
        async with stripe_at(url) as gateway:
            with pytest.raises(StripeGaveNoAnswer):
                await gateway.payment_intent("pi_1")
            for listed in Listed:
                with pytest.raises(StripeGaveNoAnswer):
                    await _read(gateway, listed)


async def _read(gateway: StripeGateway, listed: Listed) -> None:
    async for _ in gateway.pages(listed):
        pass
