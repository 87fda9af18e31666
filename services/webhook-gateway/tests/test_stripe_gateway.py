"""An answer that is not Stripe's, such as a proxy's page, is an error: never an event, and never a missing object."""

import pytest

from embedded.testing import stripe_settings
from stripe_simulator.proxies import PAGES, Page, proxy
from webhook_gateway.stripe_gateway import EventsAsked, StripeRefused, open_stripe_gateway


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_an_answer_that_is_not_stripes_is_refused(page: Page) -> None:
    with proxy(page) as url:
        async with open_stripe_gateway(stripe_settings(url, "sk_test_x")) as gateway:
            with pytest.raises(StripeRefused):
                await gateway.object_of("payment_intent", "pi_1")
            with pytest.raises(StripeRefused):
                await anext(gateway.events(["refund.created"], EventsAsked(0, None)))
            with pytest.raises(StripeRefused):
                await gateway.create_endpoint("https://pay.example.com/webhooks/stripe", ["refund.created"])
