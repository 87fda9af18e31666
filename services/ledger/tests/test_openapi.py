"""The API conforms to `/openapi.json`: Schemathesis calls every route of a real process.

It looks for answers that are 5xx or undocumented, by status, media type or shape; for wrong input that is taken and
right input that is refused; for routes that answer without a token.
"""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from embedded.environment import DEVELOPMENT_JWT_SECRET, inherited
from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer
from shared.auth import Scope
from shared.clock import utc_now
from shared.topic_admin import create_topics

from .books import Books
from .builders import capture, debit, hold, promotion, purchase, refund, release, unapplied, usage
from .conftest import MakeHeaders

EXAMPLES_MAX = 25
TIMEOUT_S = 100.0
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")

#: Routes differ in who may ask; references that exist let calls go deeper than "unknown".
CONFIG = """
seed = 1
suppress-health-check = ["all"]
continue-on-failure = true
request-timeout = 20.0
headers = {{ Authorization = "{tenant}" }}
hooks = "{hooks}"

[dictionaries]
references = {{ values = ["open", "captured", "released", "job-1", "chat/42"] }}
tenants = {{ values = ["acme", "other", "nobody"] }}
payment_intents = {{ values = ["pi_4", "pi_5"] }}

[parameters]
reference = {{ dictionary = "references", probability = 0.6 }}
tenant_id = {{ dictionary = "tenants", probability = 0.6 }}
tenantId = {{ dictionary = "tenants", probability = 0.6 }}
payment_intent = {{ dictionary = "payment_intents", probability = 0.9 }}

[generation]
deterministic = true
database = "none"
max-examples = {examples}

[checks.positive_data_acceptance]
# What fits may still be refused for what the books say: too few credits, another's tenant, one or a hold that is
# unknown, a reference with another input.
expected-statuses = ["2xx", 402, 403, 404, 409]

[warnings]
fail-on = ["missing_auth"]

[phases.stateful]
enabled = false

[[operations]]
include-path-regex = "^/api/ledger/(tenants|promotions|adjustments|unapplied-receipts)"
headers = {{ Authorization = "{operator}" }}
"""
MOVED = "SELECT kind, count(*) AS moved FROM transfer GROUP BY kind"
#: The same of routes that a product calls, for tenants that it names.
PRODUCT = """
[[operations]]
include-path-regex = "^/api/ledger/(debits|holds)"
headers = {{ Authorization = "{product}" }}
"""


@pytest.fixture
async def api_url(books: Books, kafka_server: KafkaServer, log_dir: Path, tmp_path: Path) -> AsyncIterator[str]:
    """An API as it runs, over tenants with a bit of everything."""
    await books.post(
        purchase(expires_in_days=3650), purchase("pi_2", credits=10**9), promotion(), debit("job-1", 7),
        usage("job-2", 3), refund(amount_minor=300), hold("open", expires_at=utc_now() + timedelta(days=300)),
        hold("captured"), capture("captured"), hold("released"), release("released"), hold("chat/42"),
        purchase("pi_3", tenant="other"), unapplied("pi_4", attempt="att_1"), unapplied("pi_5", tenant=""),
    )  # fmt: skip
    prefix = f"openapi-{secrets.token_hex(4)}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    process = HttpProcess(
        "ledger-openapi",
        ["ledger", "app"],
        log_file=log_dir / "ledger-openapi.log",
        cwd=tmp_path,
        env={
            **inherited(),
            **books.database.environment(),
            "HTTP_PORT": "{port}",
            "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
            "TOPIC_PREFIX": prefix,
            "AUTH_JWT_SECRET": DEVELOPMENT_JWT_SECRET,
        },
    )
    process.start()
    yield process.url
    process.close()


@pytest.mark.timeout(2 * TIMEOUT_S)  # the first of a run also starts PostgreSQL and Kafka
@pytest.mark.parametrize("caller", ["tenant", "product"])
async def test_every_route_conforms_to_its_openapi_description(
    api_url: str, books: Books, headers: MakeHeaders, tmp_path: Path, caller: str
) -> None:
    tokens = {
        "tenant": headers("acme", Scope.BILLING_READ, Scope.CREDITS_DEBIT),
        "product": headers(None, Scope.CREDITS_DEBIT_ANY),
        "operator": headers(None, Scope.OPERATOR),
    }
    config = CONFIG if caller == "tenant" else CONFIG + PRODUCT
    names = {name: each["Authorization"] for name, each in tokens.items()}
    (tmp_path / "schemathesis.toml").write_text(config.format(examples=EXAMPLES_MAX, hooks=HOOKS, **names))
    only = [] if caller == "tenant" else ["--include-path-regex", "^/api/ledger/(debits|holds)", "--phases", "fuzzing"]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "schemathesis.cli", "run", f"{api_url}/openapi.json", "--no-color", *only],
        cwd=tmp_path, env=inherited(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    moved = {row.kind: row.moved for row in await books.rows(MOVED)}
    assert min(moved.get(kind, 0) for kind in ("usage", "hold", "release")) >= 3, "it did not come far"
    assert caller == "product" or moved.get("recharge"), "no receipt was credited"
    await books.assert_right()
