"""How control routes reach the simulator and its objects."""

from typing import Annotated, cast

from fastapi import Depends, HTTPException, Request

from stripe_simulator.collection import Collection
from stripe_simulator.contract import Json
from stripe_simulator.simulator import Simulator


def _simulator(request: Request) -> Simulator:
    return cast(Simulator, request.app.state.simulator)


TheSimulator = Annotated[Simulator, Depends(_simulator)]


def found(collection: Collection, item_id: str) -> Json:
    """The object, or 404."""
    item = collection.get(item_id)
    if item is None:
        raise HTTPException(404, f"There is no {collection.kind} {item_id}.")
    return item


def conflict(why: object) -> HTTPException:
    return HTTPException(409, str(why))
