"""Which ASGI application answers a request."""

from typing import Any

from webhook_gateway.api.webhooks import PATH, WebhookEndpoint


class Dispatcher:
    """Sends webhooks to their endpoint before any middleware or routing of the app, which would halve their speed."""

    def __init__(self, webhooks: WebhookEndpoint, app: Any) -> None:
        self._webhooks = webhooks
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            await self._webhooks(scope, receive, send)
        else:
            await self._app(scope, receive, send)
