"""Events that are lost for good: the endpoint was disabled, and the backfill does not read them.

`reconcile` lists what is missing by kind, `--heal` has it published, and everything is credited once.
"""

import asyncio
import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from demo.steps import StepFailed, until
from demo.traffic import purchases
from demo.workload import PACKAGE, PACKAGE_CREDITS, PACKAGE_MINOR
from embedded.consumer_groups import consumer_groups
from embedded.environment import SIMULATOR_SECRET_KEY
from embedded.process import this_python
from embedded.stack import GATEWAY_BACKFILL, LEDGER_WORKER
from shared.clock import utc_now
from shared.topics import TopicName

IS_FULL = os.environ.get("PREPAID_SOAK") == "full"
PURCHASES = 500 if IS_FULL else 100
BUYERS = 10
LOST_SHARE = 10
REFUND_MINOR = PACKAGE_MINOR // 4
#: How many purchases are refunded in part, and how many disputed.
REFUNDS, DISPUTES = PURCHASES // 5, PURCHASES // 10
COMMAND_TIMEOUT_S = 120.0
HEALED_TIMEOUT_S = 60.0
LINES_SHOWN = 25


async def _reconcile(flow, *arguments: str) -> tuple[int, str]:
    """`python -m ledger reconcile`: its exit code, and what it says."""
    done = await asyncio.to_thread(
        subprocess.run,
        this_python("-m", "ledger", "reconcile", *arguments),
        env=flow.stack.environment.of("ledger"), cwd=flow.stack.directory / "run", capture_output=True, text=True,
        timeout=COMMAND_TIMEOUT_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _counts(said: str) -> dict[str, int]:
    """The number of differences of each kind."""
    return {kind: int(count) for kind, count in re.findall(r"^  (\w+): (\d+)$", said, re.MULTILINE)}


async def _refund(flow, payment_intent: str) -> None:
    headers = {"Authorization": f"Bearer {SIMULATOR_SECRET_KEY}"}
    form: dict[str, Any] = {"payment_intent": payment_intent, "amount": REFUND_MINOR}
    url = f"{flow.addresses.stripe}/v1/refunds"
    (await flow.http.post(url, data=form, headers=headers)).raise_for_status()


async def _dispute(flow, payment_intent: str) -> None:
    url = f"{flow.addresses.stripe}/_sim/charges/{payment_intent}/dispute"
    (await flow.http.post(url, json={})).raise_for_status()


async def _refunded_and_disputed(flow, bought: Sequence[str], refunds: int, disputes: int) -> Counter[str]:
    """Refunds the first ones in part and disputes the last ones. Returns how many credits each loses."""
    assert refunds + disputes <= len(bought)
    for name in bought[:refunds]:
        await _refund(flow, name)
    for name in bought[len(bought) - disputes :]:
        await _dispute(flow, name)
    lost = Counter(dict.fromkeys(bought[:refunds], PACKAGE_CREDITS * REFUND_MINOR // PACKAGE_MINOR))
    lost.update(dict.fromkeys(bought[len(bought) - disputes :], PACKAGE_CREDITS))
    return lost


async def _credits_by_payment(flow) -> dict[str, tuple[int, int]]:
    """For each PaymentIntent, how often it was credited, and how many of its credits are left."""
    sql = (
        "SELECT payment_intent, count(*) FILTER (WHERE kind = 'purchase'), "
        "sum(CASE WHEN destination = 'available' THEN credits ELSE -credits END) "
        "FROM transfer WHERE payment_intent IS NOT NULL GROUP BY payment_intent"
    )
    rows = await asyncio.to_thread(flow.stack.postgres_server.execute, sql, "ledger")
    return {name: (int(times), int(left)) for name, times, left in (row.split("|") for row in rows.splitlines())}


async def _progress(flow) -> str:
    """The ledger's unpublished events, and the last log lines of the processes involved."""
    waiting = await asyncio.to_thread(flow.stack.postgres_server.execute, "SELECT topic, id FROM outbox", "ledger")
    tails = [
        "\n".join([process.name, *flow.stack.log_file(process.name).read_text().splitlines()[-LINES_SHOWN:]])
        for process in (GATEWAY_BACKFILL, LEDGER_WORKER)
    ]
    return "\n".join([f"in the ledger's outbox: {waiting or 'nothing'}", *tails])


@pytest.mark.soak
@pytest.mark.timeout(600 if IS_FULL else 200)
async def test_a_tenth_of_all_events_lost_for_good_is_listed_by_kind_and_healed_once(flow) -> None:
    buyers = [flow.tenant("buyer") for _ in range(BUYERS)]
    since = ("--since", utc_now().isoformat(timespec="seconds"), "--grace", "0s")
    arrived = PURCHASES - PURCHASES // LOST_SHARE
    bought = await purchases(buyers, arrived, PACKAGE)
    taken_back = await _refunded_and_disputed(
        flow, bought, REFUNDS - REFUNDS // LOST_SHARE, DISPUTES - DISPUTES // LOST_SHARE
    )
    assert await flow.simulator.wait_for_webhooks()
    await flow.check_ledger()

    await flow.simulator.enable_endpoint(enabled=False)
    lost = await purchases(buyers, PURCHASES - arrived, PACKAGE)
    lost_refunds, lost_disputes = max(2, REFUNDS // LOST_SHARE), max(2, DISPUTES // LOST_SHARE)
    of_the_lost = await _refunded_and_disputed(flow, lost, lost_refunds // 2, lost_disputes // 2)
    middle = bought[len(bought) // 2 :]
    of_the_known = await _refunded_and_disputed(
        flow,
        middle[: lost_refunds + lost_disputes],
        lost_refunds - lost_refunds // 2,
        lost_disputes - lost_disputes // 2,
    )
    await flow.simulator.enable_endpoint(enabled=True)
    assert await flow.simulator.wait_for_webhooks()

    code, said = await _reconcile(flow, *since)
    assert (code, _counts(said)) == (
        1,
        {"payment_missing": len(lost), "refund_missing": lost_refunds, "dispute_missing": lost_disputes},
    ), said
    code, said = await _reconcile(flow, *since, "--heal")
    assert code == 1
    assert f"asked the gateway for {len(lost) + lost_refunds + lost_disputes} objects" in said
    await _reconcile(flow, *since, "--heal")  # once more, before everything has arrived

    async def nothing_differs() -> bool:
        return (await _reconcile(flow, *since))[0] == 0

    try:
        await until(nothing_differs, "books without a difference from Stripe", HEALED_TIMEOUT_S)
    except StepFailed as error:
        raise AssertionError(f"{error}\n{await _progress(flow)}") from error
    await flow.check_ledger()
    assert (await flow.check_invariants()).violations == []
    left = await _credits_by_payment(flow)
    everything = taken_back + of_the_lost + of_the_known
    assert {name: left[name] for name in (*bought, *lost)} == {
        name: (1, PACKAGE_CREDITS - everything[name]) for name in (*bought, *lost)
    }

    # The backfill then finds the original events, which Stripe lists as undelivered nowhere, and nothing changes.
    async with consumer_groups(flow.stack.kafka_server, TopicName.STRIPE_EVENTS) as groups:
        before = sum((await groups.ends()).values())
        await asyncio.to_thread(flow.stack.run, GATEWAY_BACKFILL.service, "backfill", "--once")
        assert sum((await groups.ends()).values()) - before >= len(lost) + lost_refunds + lost_disputes

        async def are_read() -> bool:
            return await groups.lag(LEDGER_WORKER.service) == 0

        await until(are_read, "the events read by the ledger")
    await flow.check_ledger()
    again = await _credits_by_payment(flow)
    assert {name: again[name] for name in (*bought, *lost)} == {name: left[name] for name in (*bought, *lost)}
