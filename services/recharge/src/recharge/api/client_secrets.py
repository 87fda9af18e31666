"""Client secrets of charges that wait for authentication."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import Field

from recharge.api.body import Body
from recharge.api.dependencies import AppDependencies, Writer
from recharge.api.errors import NO_STORE, unknown_attempt, withheld
from recharge.workflows.client_secrets import ClientSecretWithheld, UnknownAttempt
from shared.problems import problem_responses

router = APIRouter()
AttemptId = Annotated[str, Path(max_length=64, pattern="^[A-Za-z0-9_]+$")]


class ClientSecret(Body):
    """What a browser confirms a charge with that waits for authentication: Stripe.js' `confirmCardPayment(clientSecret,
    {payment_method: paymentMethod})`. For this tenant's browser alone, and to be kept nowhere."""

    attempt: str
    payment_intent: str
    payment_method: str | None
    client_secret: str = Field(repr=False)
    amount_minor: int
    currency: str


@router.get(
    "/attempts/{attempt}/client-secret",
    summary="The client secret of a charge that waits for its owner to authenticate it.",
    responses=problem_responses(404, 409),
)
async def client_secret(
    dependencies: AppDependencies, response: Response, principal: Writer, attempt: AttemptId
) -> ClientSecret:
    response.headers.update(NO_STORE)
    try:
        fetched = await dependencies.client_secrets.fetch(dependencies.engine, principal.own_tenant, attempt)
    except UnknownAttempt:
        raise unknown_attempt() from None
    except ClientSecretWithheld as error:
        raise withheld(error.reason) from None
    return ClientSecret(
        attempt=attempt,
        payment_intent=fetched.payment_intent,
        payment_method=fetched.payment_method,
        client_secret=fetched.client_secret,
        amount_minor=fetched.attempt.amount_minor,
        currency=fetched.attempt.currency,
    )
