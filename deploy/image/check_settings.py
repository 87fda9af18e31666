"""`python -m check_settings`: the first thing compose runs. Refuses settings that would start and be unsafe or wrong.

With the simulator the development values are welcome. With Stripe itself, test or live, none of them may be left: their
values are public, and whoever knows AUTH_JWT_SECRET is every tenant.
"""

import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

#: Every development value of docker-compose.yml contains one of these.
DEVELOPMENT_MARKS = ("development-only", "simulator")
SECRETS = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "METADATA_SIGNING_KEYS", "AUTH_JWT_SECRET")
PUBLISHABLE_KEYS = ("STRIPE_PUBLISHABLE_KEY", "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY")
ROLE_PASSWORDS = tuple(
    f"{service}_{role}_PASSWORD"
    for service in ("LEDGER", "PAYMENTS", "RECHARGE")
    for role in ("OWNER", "API", "WORKER")
)
PASSWORDS = ("POSTGRES_PASSWORD", *ROLE_PASSWORDS)
#: Passwords become part of addresses; these characters mean themselves there.
PASSWORD = re.compile(r"[A-Za-z0-9._~-]+")
SIGNING_KEY_LENGTH_MIN = 32
#: What Stripe's secrets look like. One put in another's place would fail at every use, or be shown to browsers.
STRIPE_SECRETS = {
    "STRIPE_SECRET_KEY": (re.compile(r"(sk|rk)_(test|live)_.+"), "a secret key: sk_test_…, sk_live_…, rk_…"),
    "STRIPE_WEBHOOK_SECRET": (re.compile(r"whsec_.+"), "the secret of a webhook endpoint: whsec_…"),
    **dict.fromkeys(PUBLISHABLE_KEYS, (re.compile(r"pk_(test|live)_.+"), "a publishable key: pk_test_…, pk_live_…")),
}
#: Of these there may be several, with commas between them.
LISTS = ("STRIPE_WEBHOOK_SECRET", "METADATA_SIGNING_KEYS")


def problems(settings: Mapping[str, str], resolves: Callable[[str], bool]) -> list[str]:
    """What is wrong, a sentence each, never with a secret in it. `resolves` knows which hosts exist."""
    found = [*_missing(settings), *_unfit_passwords(settings), *_unfit_secrets(settings), *_unfit_keys(settings)]
    api_base = settings.get("STRIPE_API_BASE", "")
    if api_base:
        found += _wrong_for_simulator(settings, api_base, resolves)
    else:
        found += _wrong_for_stripe(settings)
    return found


def _missing(settings: Mapping[str, str]) -> list[str]:
    required = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "METADATA_SIGNING_KEYS", *PASSWORDS)
    found = [f"{name} is empty." for name in required if not settings.get(name)]
    if not any(settings.get(name) for name in PUBLISHABLE_KEYS):
        found.append(f"{' or '.join(PUBLISHABLE_KEYS)} is needed; both are empty.")
    if bool(settings.get("AUTH_JWKS_URL")) == bool(settings.get("AUTH_JWT_SECRET")):
        found.append(
            "Set either AUTH_JWKS_URL (production) or AUTH_JWT_SECRET, and leave the other one empty: `NAME=`."
        )
    return found


def _unfit_passwords(settings: Mapping[str, str]) -> list[str]:
    return [
        f"{name} may have only letters, digits and . _ ~ - in it. Make one with `openssl rand -hex 24`."
        for name in PASSWORDS
        if settings.get(name) and not PASSWORD.fullmatch(settings[name])
    ]


def _unfit_secrets(settings: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for name in (*SECRETS, *PUBLISHABLE_KEYS):
        whole = settings.get(name, "")
        parts = [part.strip() for part in whole.split(",")] if name in LISTS else [whole]
        for part in filter(None, parts):
            if any(not "!" <= character <= "~" for character in part):
                found.append(f"{name} has a blank or another invisible character in it. Copy it again without.")
            elif name in STRIPE_SECRETS and not STRIPE_SECRETS[name][0].fullmatch(part):
                found.append(f"{name} is not {STRIPE_SECRETS[name][1]}.")
    return found


def _unfit_keys(settings: Mapping[str, str]) -> list[str]:
    keys = [key.strip() for key in settings.get("METADATA_SIGNING_KEYS", "").split(",") if key.strip()]
    if all(len(key) >= SIGNING_KEY_LENGTH_MIN for key in keys):
        return []
    return [
        f"METADATA_SIGNING_KEYS has a key of fewer than {SIGNING_KEY_LENGTH_MIN} characters. "
        "Make one with `openssl rand -hex 32`."
    ]


def _wrong_for_stripe(settings: Mapping[str, str]) -> list[str]:
    found = [
        f"{name} has a development value, which is public. Set a value of your own."
        for name in (*SECRETS, *PUBLISHABLE_KEYS, *PASSWORDS)
        if any(mark in settings.get(name, "") for mark in DEVELOPMENT_MARKS)
    ]
    key_is_live = settings.get("STRIPE_SECRET_KEY", "").startswith(("sk_live_", "rk_live_"))
    wants_live = settings.get("STRIPE_LIVEMODE", "").lower() in ("true", "1", "yes", "on")
    if key_is_live != wants_live:
        found.append(
            f"STRIPE_SECRET_KEY is a {'live' if key_is_live else 'test'} key: set STRIPE_LIVEMODE="
            f"{'true' if key_is_live else 'false'}, or the gateway would refuse its webhooks."
        )
    for name in PUBLISHABLE_KEYS:
        publishable = settings.get(name, "")
        if publishable and publishable.startswith("pk_live_") != key_is_live:
            found.append(f"{name} and STRIPE_SECRET_KEY are not of the same mode: one is live, the other is not.")
    return found


def _wrong_for_simulator(settings: Mapping[str, str], api_base: str, resolves: Callable[[str], bool]) -> list[str]:
    if "simulator" not in settings.get("STRIPE_SECRET_KEY", ""):
        return [
            f"STRIPE_SECRET_KEY is not the simulator's, but would be sent to {api_base}. "
            "For Stripe itself set STRIPE_API_BASE to nothing: a line `STRIPE_API_BASE=` in .env."
        ]
    host = urlsplit(api_base).hostname
    if host is None or not resolves(host):
        return [
            f"No Stripe keys are set, and there is no simulator at {api_base}. Run it too: `docker compose --profile "
            "simulator up`, or set your Stripe keys: `deploy/new-env.sh`, then fill in .env."
        ]
    return []


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def main() -> int:
    found = problems(os.environ, _resolves)
    if found:
        sys.stderr.write("The settings cannot be used:\n" + "".join(f"  - {problem}\n" for problem in found))
        sys.stderr.write("docs/deploy.md explains them. Nothing has been started or written.\n")
        return 1
    if os.environ.get("STRIPE_API_BASE"):
        sys.stdout.write("Stripe is the simulator; secrets are development values. For development only.\n")
    else:
        sys.stdout.write("Stripe is the real one; no development value is left.\n")
    if os.environ.get("AUTH_JWT_SECRET"):
        sys.stdout.write("Tokens are signed with AUTH_JWT_SECRET. In production use AUTH_JWKS_URL.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
