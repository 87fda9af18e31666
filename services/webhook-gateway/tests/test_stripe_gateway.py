"""Whatever answers in Stripe's place, the backfill takes nothing from it, and nothing for missing."""

import pytest
from pydantic import SecretStr

from shared.settings import StripeSettings
from stripe_simulator.proxies import PAGES, Page, proxy
from webhook_gateway.stripe_gateway import EventsAsked, StripeRefused, open_stripe


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_what_is_not_stripes_is_no_answer(page: Page) -> None:
    with proxy(page) as url:
        settings = StripeSettings(stripe_secret_key=SecretStr("sk_test_x"), stripe_api_base=url)
        async with open_stripe(settings) as gateway:
            with pytest.raises(StripeRefused):
                await gateway.object_of("payment_intent", "pi_1")
            with pytest.raises(StripeRefused):
                await gateway.events(["refund.created"], EventsAsked(0, None), None)
            with pytest.raises(StripeRefused):
                await gateway.create_endpoint("https://pay.example.com/webhooks/stripe", ["refund.created"])
