"""The HTTP application: Stripe's API under /v1, the control API under /_sim."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from stripe_simulator.api.operations import OPERATIONS
from stripe_simulator.api.request_handler import RequestHandler
from stripe_simulator.contract import OperationSpec
from stripe_simulator.control import faults, objects, payments, state, webhooks
from stripe_simulator.settings import Settings
from stripe_simulator.simulator import Simulator


def create_app(settings: Settings) -> FastAPI:
    """The application for one simulated account."""
    simulator = Simulator(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        simulator.sender.start()
        try:
            yield
        finally:
            await simulator.sender.stop()

    app = FastAPI(
        title="Stripe simulator",
        version=simulator.contract.api_version,
        summary="Control API of a stand-in for Stripe's servers.",
        openapi_url="/_sim/openapi.json",
        docs_url="/_sim/docs",
        redoc_url=None,
        lifespan=lifespan,
    )
    # A browser may call from any page, as it may call Stripe: the publishable key and client secrets protect it.
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], expose_headers=["Request-Id"]
    )
    handler = RequestHandler(simulator)
    # First, because routes are tried in order and these are the busy ones.
    _add_operations(app, simulator, handler)
    for router in (state.router, faults.router, webhooks.router, objects.router, payments.router):
        app.include_router(router, prefix="/_sim", tags=["control"])
    app.add_route("/{path:path}", handler.refuse_unknown, methods=["GET", "POST", "DELETE", "PUT", "PATCH"])
    app.state.simulator = simulator
    return app


def _add_operations(app: FastAPI, simulator: Simulator, handler: RequestHandler) -> None:
    def route(spec: OperationSpec) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await handler.answer(spec, request)

        return answer

    for key in OPERATIONS:
        spec = simulator.contract.operations[key]
        app.add_route(spec.path, route(spec), methods=[spec.method])
