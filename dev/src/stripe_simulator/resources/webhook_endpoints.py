"""Webhook endpoints: where events are sent, which types, and signed with which secret."""

from stripe_simulator.account import Account, Endpoint
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.ids import new_id, new_secret
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.metadata import merged

_ENDPOINTS_MAX = 16


def create(account: Account, call: Call) -> Json:
    params = call.params
    return register(
        account,
        _checked_url(params["url"]),
        params["enabled_events"],
        secret=f"whsec_{new_secret(32)}",
        api_version=params.get("api_version"),
        description=params.get("description") or None,
        metadata=merged({}, params.get("metadata")),
    )


def register(
    account: Account,
    url: str,
    enabled_events: list[str],
    *,
    secret: str,
    api_version: str | None = None,
    description: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Json:
    """A new endpoint. The answer shows its secret, the only time that it is shown."""
    if len(account.webhook_endpoints) >= _ENDPOINTS_MAX:
        raise InvalidRequest(f"You have reached the maximum of {_ENDPOINTS_MAX} test webhook endpoints.")
    endpoint = account.contract.blank("webhook_endpoint")
    endpoint |= {
        "id": new_id("we"),
        "api_version": api_version,
        "created": account.clock.now(),
        "description": description,
        "enabled_events": enabled_events,
        "metadata": metadata or {},
        "status": "enabled",
        "url": url,
    }
    account.webhook_endpoints.add(endpoint)
    account.endpoints[endpoint["id"]] = Endpoint((secret,))
    return endpoint | {"secret": secret}


def roll_secret(account: Account, endpoint_id: str, *, keep_old: bool) -> str:
    """Give an endpoint a new secret; the old one may go on signing beside it, as it does for a day at Stripe."""
    secret = f"whsec_{new_secret(32)}"
    old = account.endpoints[endpoint_id].secrets[:1] if keep_old else ()
    account.endpoints[endpoint_id] = Endpoint((secret, *old))
    return secret


def retrieve(account: Account, call: Call) -> Json:
    return _living(account, call)


def update(account: Account, call: Call) -> Json:
    endpoint = _living(account, call)
    params = call.params
    metadata = merged(endpoint["metadata"], params.get("metadata"))
    if "url" in params:
        endpoint["url"] = _checked_url(params["url"])
    if "enabled_events" in params:
        endpoint["enabled_events"] = params["enabled_events"]
    if "disabled" in params:
        endpoint["status"] = "disabled" if params["disabled"] else "enabled"
    if "description" in params:
        endpoint["description"] = params["description"] or None
    endpoint["metadata"] = metadata
    return endpoint


def delete(account: Account, call: Call) -> Json:
    endpoint = _living(account, call)
    account.webhook_endpoints.unlist(endpoint)
    del account.endpoints[endpoint["id"]]
    account.forget_endpoint(endpoint["id"])
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def listed(account: Account, call: Call) -> Json:
    return listing(account.webhook_endpoints, call, "/v1/webhook_endpoints")


def _living(account: Account, call: Call) -> Json:
    endpoint = account.require(account.webhook_endpoints, call.path["webhook_endpoint"], "webhook_endpoint")
    if endpoint["id"] not in account.endpoints:
        raise InvalidRequest(
            f"No such webhook endpoint: '{endpoint['id']}'",
            status=404,
            code="resource_missing",
            param="webhook_endpoint",
        )
    return endpoint


def _checked_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise InvalidRequest("Invalid URL: An explicit scheme (such as https) must be provided.", param="url")
    return url
