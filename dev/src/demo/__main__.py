"""`make demo`: plays the story on an embedded stack of its own and checks the three sentences at the end."""

import asyncio
import sys
import time

import httpx
from rich.console import Console
from rich.table import Table

from demo.clients import Addresses, Product, Refused, Tenant
from demo.narration import Narrator, StepFailed
from demo.simulator import Simulator
from demo.story import Cast, play
from demo.traffic import PATIENCE_S
from embedded.environment import DEVELOPMENT_JWT_SECRET, SIMULATOR_PUBLISHABLE_KEY
from embedded.process import NotReady
from embedded.stack import GATEWAY_APP, LEDGER_APP, PAYMENTS_APP, RECHARGE_APP, Stack, StackConfig
from proof.books import prove_books
from proof.judge import Verdict, judge_when_settled

CROWD = 5


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


async def tell(console: Console, stack: Stack) -> Verdict:
    """Plays the story and judges it."""
    addresses = addresses_of(stack)
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        cast = Cast(
            narrator=Narrator(console),
            stack=stack,
            simulator=Simulator(addresses.stripe, http),
            product=Product(addresses, http),
            acme=Tenant(addresses, http, "acme"),
            borealis=Tenant(addresses, http, "borealis"),
            crowd=[Tenant(addresses, http, f"customer-{number}") for number in range(1, CROWD + 1)],
        )
        await play(cast)
        verdict = await judge_when_settled(http, addresses.stripe, stack.postgres_server)
    prove_books(stack)
    return verdict


def show(console: Console, verdict: Verdict) -> None:
    """The three sentences, and what they were judged by."""
    table = Table(title="\nThe three sentences, against Stripe's books", title_justify="left", title_style="bold")
    table.add_column("sentence")
    table.add_column("looked at")
    table.add_column("holds")
    money = ", ".join(f"{minor / 100:,.2f} {code.upper()}" for code, minor in sorted(verdict.charged_minor.items()))
    rows = (
        ("1. Every cent is in the ledger exactly once", f"{verdict.charges} charges, {money}", verdict.cents),
        ("2. No card charged twice, nor beyond its cap", f"{verdict.attempts} attempts", verdict.charges_twice),
        ("3. A tenant sees and spends only its own", f"{verdict.tables} tables, as the API's role", verdict.isolation),
    )
    for sentence, seen, wrong in rows:
        table.add_row(sentence, seen, "[red]no[/red]" if wrong else "[green]yes[/green]")
    console.print(table)
    for line in verdict.wrong:
        console.print(f"  [red]✗[/red] {line}", highlight=False)


def main() -> int:
    """0 when the story came true and the sentences hold, else 1."""
    console = Console()
    begun = time.monotonic()
    try:
        with console.status("Starting PostgreSQL, Kafka, the simulator and the services …"):
            stack = Stack(StackConfig(label="demo"), say=lambda text: console.print(f"  [dim]{text}[/dim]"))
            stack.start()
        try:
            verdict = asyncio.run(tell(console, stack))
        finally:
            with console.status("Stopping everything …"):
                stack.close()
    except (StepFailed, NotReady, Refused, httpx.HTTPError) as error:
        console.print(f"\n[red]The story broke off:[/red] {error}")
        console.print("The processes' logs are under build/logs/.")
        return 1
    show(console, verdict)
    console.print(
        f"\n[bold]{'Done' if verdict.is_proven else 'NOT proven'}[/bold] in {time.monotonic() - begun:.0f} s."
    )
    return 0 if verdict.is_proven else 1


if __name__ == "__main__":
    sys.exit(main())
