"""`make demo`: runs the demo scenario on an embedded stack of its own, then checks the three invariants."""

import asyncio
import sys
import time

import httpx
from rich.console import Console
from rich.table import Table

from demo.clients import Addresses, Product, Refused, Tenant
from demo.scenario import Scenario, run_scenario
from demo.simulator import Simulator
from demo.steps import StepFailed, StepPrinter
from demo.traffic import RETRY_TIMEOUT_S
from embedded.environment import DEVELOPMENT_JWT_SECRET, SIMULATOR_PUBLISHABLE_KEY
from embedded.process import NotReady
from embedded.stack import GATEWAY_APP, LEDGER_APP, PAYMENTS_APP, RECHARGE_APP, Stack, StackConfig
from invariants.check import Report, check_until_all_hold
from invariants.ledger_check import check_ledger

CUSTOMERS = 5


def addresses_of(stack: Stack) -> Addresses:
    """Where the parts of a stack with a simulator answer."""
    assert stack.simulator is not None
    return Addresses(
        gateway=stack.url(GATEWAY_APP),
        payments=stack.url(PAYMENTS_APP),
        ledger=stack.url(LEDGER_APP),
        recharge=stack.url(RECHARGE_APP),
        stripe=stack.simulator.url,
        publishable_key=SIMULATOR_PUBLISHABLE_KEY,
        jwt_secret=DEVELOPMENT_JWT_SECRET,
    )


async def run_demo(console: Console, stack: Stack) -> Report:
    """Runs the scenario, then checks the invariants and the ledger."""
    addresses = addresses_of(stack)
    async with httpx.AsyncClient(timeout=RETRY_TIMEOUT_S) as http:
        scenario = Scenario(
            steps=StepPrinter(console),
            stack=stack,
            simulator=Simulator(addresses.stripe, http),
            product=Product(addresses, http),
            acme=Tenant(addresses, http, "acme"),
            borealis=Tenant(addresses, http, "borealis"),
            customers=[Tenant(addresses, http, f"customer-{number}") for number in range(1, CUSTOMERS + 1)],
        )
        await run_scenario(scenario)
        report = await check_until_all_hold(http, addresses.stripe, stack.postgres_server)
    check_ledger(stack)
    return report


def show(console: Console, report: Report) -> None:
    """Prints whether each invariant holds, and what was compared."""
    table = Table(title="\nThe three invariants, against Stripe's charges", title_justify="left", title_style="bold")
    table.add_column("invariant")
    table.add_column("compared")
    table.add_column("holds")
    money = ", ".join(f"{minor / 100:,.2f} {code.upper()}" for code, minor in sorted(report.charged_minor.items()))
    rows = (
        ("1. Every cent is in the ledger exactly once", f"{report.charges} charges, {money}", report.every_cent_once),
        ("2. No card charged twice, nor beyond its cap", f"{report.attempts} attempts", report.never_charged_twice),
        ("3. A tenant sees and spends only its own", f"{report.tables} tables, as the API's role", report.only_its_own),
    )
    for invariant, compared, violations in rows:
        table.add_row(invariant, compared, "[red]no[/red]" if violations else "[green]yes[/green]")
    console.print(table)
    for line in report.violations:
        console.print(f"  [red]✗[/red] {line}", highlight=False)


def main() -> int:
    """0 when every step succeeded and all invariants hold, else 1."""
    console = Console()
    begun = time.monotonic()
    try:
        with console.status("Starting PostgreSQL, Kafka, the simulator and the services …"):
            stack = Stack(StackConfig(label="demo"), say=lambda text: console.print(f"  [dim]{text}[/dim]"))
            stack.start()
        try:
            report = asyncio.run(run_demo(console, stack))
        finally:
            with console.status("Stopping everything …"):
                stack.close()
    except (StepFailed, NotReady, Refused, httpx.HTTPError) as error:
        console.print(f"\n[red]The demo stopped:[/red] {error}")
        console.print("The processes' logs are under build/logs/.")
        return 1
    show(console, report)
    outcome = "Done" if report.all_hold else "NOT all invariants hold"
    console.print(f"\n[bold]{outcome}[/bold], {time.monotonic() - begun:.0f} s.")
    return 0 if report.all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
