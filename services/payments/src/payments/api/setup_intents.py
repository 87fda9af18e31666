"""`/api/stripe/create-setup-intent`: saving a card without paying."""

from fastapi import APIRouter

from payments.api.body import Body
from payments.api.dependencies import AppDependencies, Writer
from payments.api.errors import COMMON_PROBLEMS
from payments.workflows import saved_cards

router = APIRouter(tags=["stripe"])


class SetupIntentCreated(Body):
    setup_intent_id: str
    client_secret: str


@router.post("/api/stripe/create-setup-intent", responses=COMMON_PROBLEMS)
async def create_setup_intent(principal: Writer, dependencies: AppDependencies) -> SetupIntentCreated:
    created = await saved_cards.create_setup_intent(dependencies.workflows, principal.own_tenant)
    return SetupIntentCreated(setup_intent_id=created.setup_intent, client_secret=created.client_secret)
