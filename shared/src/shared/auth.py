"""Authentication: every service accepts the same JWT, which names a subject, a tenant and scopes."""

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from shared.jwks import IssuerKeys, KeysUnavailable, UnknownKey
from shared.problems import Problem
from shared.settings import AuthSettings, InvalidSettings

LEEWAY_S = 30
#: A tenant's id becomes part of idempotency keys (which Stripe limits to 255 characters), Stripe metadata, Kafka keys
#: and database keys, and must be the same in all of them.
_TENANT = re.compile(r"[\x21-\x7e]{1,200}")
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_ABSENT = object()
_PRINCIPAL = "prepaid.principal"  # key in the ASGI scope of a request
_bearer = HTTPBearer(auto_error=False, description="A JWT with `tenant_id` and `scope`.")


class Scope(StrEnum):
    BILLING_READ = "billing:read"
    BILLING_WRITE = "billing:write"
    CREDITS_DEBIT = "credits:debit"
    #: For the product's own token, which has no tenant: each debit names one. Only the debit routes accept it.
    CREDITS_DEBIT_ANY = "credits:debit:any"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. `tenant` is None for the token of a product or an operator."""

    subject: str
    tenant: str | None
    scopes: frozenset[str]

    @property
    def own_tenant(self) -> str:
        """The tenant of the token. Raises a Problem 403 if it has none."""
        if self.tenant is None:
            raise Problem(403, "tenant_required", "This token belongs to no tenant. Use a tenant's token.")
        return self.tenant


class Authenticator:
    """Verifies tokens with the keys of a JWKS (RS256, ES256) or, in development, with one HS256 secret.

    Raises `InvalidSettings` unless exactly one of the two is configured.
    """

    def __init__(self, settings: AuthSettings) -> None:
        if (settings.auth_jwks_url is None) == (settings.auth_jwt_secret is None):
            raise InvalidSettings(
                "Set either AUTH_JWKS_URL (your issuer's keys, production) or AUTH_JWT_SECRET (32 characters or more, "
                "development), and not both."
            )
        self._secret = settings.auth_jwt_secret
        self._keys = IssuerKeys(settings.auth_jwks_url) if settings.auth_jwks_url else None
        self._issuer = settings.auth_issuer
        self._audience = settings.auth_audience

    def start(self) -> None:
        """Starts to fetch the issuer's keys in the running event loop, so that the first request need not wait."""
        if self._keys is not None:
            self._keys.start()

    async def close(self) -> None:
        """Stops fetching keys."""
        if self._keys is not None:
            await self._keys.close()

    async def verify(self, token: str) -> Principal:
        """Returns the principal of a valid token.

        Raises a Problem 401 for any other token, and a Problem 503 while the issuer's keys are not available.
        """
        try:
            key, algorithms = await self._key_of(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"]},
            )
        except KeysUnavailable as error:
            raise Problem(
                503,
                "temporarily_unavailable",
                "The token issuer's keys cannot be fetched. Try again.",
                {"Retry-After": "1"},
            ) from error
        except (jwt.PyJWTError, UnknownKey) as error:
            raise unauthorized(f"The token is not valid: {type(error).__name__}. Get a new one.") from error
        return principal_of(claims)

    async def authenticate(self, scope: MutableMapping[str, Any]) -> Principal:
        """Returns the caller of an ASGI request, from its Authorization header.

        The token is verified once per request; further calls return the same principal. Raises what `verify` raises,
        and a Problem 401 if the header is missing.
        """
        known: Principal | None = scope.get(_PRINCIPAL)
        if known is None:
            header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            scheme, _, token = header.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise unauthorized("Send `Authorization: Bearer <token>`.")
            known = scope[_PRINCIPAL] = await self.verify(token.strip())
        return known

    async def _key_of(self, token: str) -> tuple[Any, list[str]]:
        if self._keys is not None:
            kid = jwt.get_unverified_header(token).get("kid")
            if not isinstance(kid, str):
                raise UnknownKey
            # The key determines the algorithm: a token that names another one is refused.
            return await self._keys.key(kid), ["RS256", "ES256"]
        assert self._secret is not None
        return self._secret.get_secret_value(), ["HS256"]


def principal_of(claims: Mapping[str, Any]) -> Principal:
    """Returns the principal that verified claims describe. Raises a Problem 401 if a claim has the wrong type.

    An invalid claim never counts as absent. Otherwise a token whose `tenant_id` is a number would belong to no tenant,
    and with `credits:debit:any` it could debit every tenant.
    """
    subject, scope, tenant = claims["sub"], claims.get("scope", ""), claims.get("tenant_id", _ABSENT)
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise unauthorized("The token's sub must be a text of 1 to 255 characters, without control characters.")
    if not isinstance(scope, str):
        raise unauthorized("The token's scope must be a text: scopes with a space between them.")
    scopes = frozenset(scope.split())
    if tenant is _ABSENT:
        return Principal(subject, None, scopes)
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise unauthorized(
            "The token's tenant_id must be a text of 1 to 200 visible ASCII characters, without spaces. A token "
            "without a tenant has no tenant_id at all."
        )
    return Principal(subject, tenant, scopes)


def unauthorized(detail: str) -> Problem:
    """Returns a Problem 401 with the `WWW-Authenticate` header that RFC 6750 requires."""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


async def authenticate(
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """FastAPI dependency: the caller, as `app.state.authenticator` identifies it."""
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.authenticate(request.scope)


def requires(*scopes: Scope) -> Callable[[Principal], Awaitable[Principal]]:
    """FastAPI dependency: the caller. Raises a Problem 403 if the token has none of `scopes`."""

    async def check(principal: Annotated[Principal, Depends(authenticate)]) -> Principal:
        if principal.scopes.isdisjoint(scopes):
            raise Problem(403, "scope_missing", f"The token needs the scope {' or '.join(scopes)}.")
        return principal

    return check


def mint_development_token(
    secret: str,
    *,
    subject: str,
    tenant: str | None,
    scopes: tuple[Scope, ...],
    expires_at: int,
    audience: str = "prepaid",
) -> str:
    """Returns an HS256 token for development and tests. `expires_at` is in seconds since the epoch."""
    claims: dict[str, Any] = {"sub": subject, "scope": " ".join(scopes), "exp": expires_at, "aud": audience}
    if tenant is not None:
        claims["tenant_id"] = tenant
    return jwt.encode(claims, secret, algorithm="HS256")
