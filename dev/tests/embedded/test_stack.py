"""Two stacks side by side, whose parts are connected to each other."""

from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import httpx
import pytest

from embedded.http_process import HttpProcess
from embedded.process import NotReady
from embedded.stack import GATEWAY_APP, GATEWAY_BACKFILL, Stack, StackConfig


def test_two_stacks_run_side_by_side_and_a_killed_process_restarts() -> None:
    stacks = [
        Stack(StackConfig("test-stack", processes=processes))
        for processes in ((GATEWAY_APP, GATEWAY_BACKFILL), (GATEWAY_APP,))
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Stack.start, stacks))
    try:
        first, second = stacks
        assert first.kafka_server != second.kafka_server
        assert first.postgres_server.port != second.postgres_server.port
        assert first.log_file("kafka") != second.log_file("kafka")
        roles = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^(ledger|payments|recharge)_(owner|api|worker)$'"
        assert first.postgres_server.execute(roles) == "9"

        gateway = first.processes[GATEWAY_APP.name]
        address, pid = gateway.url, gateway.process.pid
        gateway.kill()
        assert not gateway.is_running
        assert second.processes[GATEWAY_APP.name].is_ready()
        gateway.start()
        assert (gateway.url, gateway.process.pid != pid) == (address, True)
        assert _post_unsigned_webhook(gateway) == HTTPStatus.BAD_REQUEST

        replica = first.add_replica(GATEWAY_BACKFILL)
        assert replica.name == "webhook-gateway-backfill-2"
        assert replica.stop() == 0
    finally:
        directories = [stack.directory for stack in stacks]
        for stack in stacks:
            stack.close()
    assert not any(directory.exists() for directory in directories)


def test_a_command_that_fails_shows_its_output() -> None:
    stack = Stack(StackConfig("test-failing", processes=()))
    with pytest.raises(NotReady, match=r"(?s)nothing_like_this now failed with status 1.*No module named"):
        stack.run("nothing_like_this", "now")
    stack.close()


def _post_unsigned_webhook(gateway: HttpProcess) -> int:
    return httpx.post(f"{gateway.url}/api/stripe/webhooks", content=b"{}", trust_env=False).status_code
