"""`python -m shared.dead_letters show|accept|drop`: shows stopped partitions and dead letters, and resolves them."""

import argparse
import asyncio
import sys

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from shared.commands import exit_with
from shared.groups import Group, NotAccepted
from shared.settings import KafkaSettings, load_settings
from shared.topics import TOPICS

SERVICES = sorted({reader for topic in TOPICS for reader in topic.readers})


async def _show(groups: list[Group]) -> int:
    lines = [f"{group.service}: {each}" for group in groups for each in (await group.held_back()).lines()]
    print("\n".join(lines) if lines else "nothing is held back")  # noqa: T201
    return 1 if lines else 0


async def _accept(group: Group, topic: str, partition: int, until: int) -> int:
    records = await group.accept(TopicPartition(topic, partition), until)
    print(  # noqa: T201
        f"accepted {records} records of {topic}:{partition} for {group.service}. Its worker goes on within seconds: "
        "what it can read of them it handles, the rest goes to the dead letters."
    )
    return 0


async def _drop(group: Group, topic: str, until: int) -> int:
    print(f"dropped {await group.drop(topic, until)} dead letters of {topic} for {group.service}")  # noqa: T201
    return 0


def main(arguments: list[str]) -> int:
    """Runs the command and returns the exit code.

    0: done, or nothing is held back. 1: something is held back, or the command does not apply. 2: invalid arguments or
    settings, or Kafka does not answer.
    """
    parser = argparse.ArgumentParser(
        prog="python -m shared.dead_letters", description="Stopped partitions and dead letters of the services' groups."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="say what is held back; ends with 1 if something is")
    show.add_argument("--group", choices=SERVICES, help="of this service alone")
    accept = commands.add_parser("accept", help="let a stopped partition go on: its poison is wrong in itself")
    drop = commands.add_parser("drop", help="delete dead letters that have been handled")
    for command in (accept, drop):
        command.add_argument("--group", choices=SERVICES, required=True, help="the service that holds them back")
        command.add_argument("--topic", required=True, help="the topic that was read, without .dead-letter")
    accept.add_argument("--partition", type=int, required=True)
    accept.add_argument("--until", type=int, required=True, help="offset of the last record that is accepted")
    drop.add_argument("--until", type=int, required=True, help="offset of the last dead letter to be deleted")
    options = parser.parse_args(arguments)
    settings = load_settings(KafkaSettings)
    servers, prefix = settings.kafka_bootstrap_servers, settings.topic_prefix
    names = [options.group] if options.group else SERVICES
    groups = [Group(servers, name, prefix) for name in names]
    try:
        match options.command:
            case "show":
                return asyncio.run(_show(groups))
            case "accept":
                return asyncio.run(_accept(groups[0], prefix + options.topic, options.partition, options.until))
            case _:
                return asyncio.run(_drop(groups[0], prefix + options.topic, options.until))
    except NotAccepted as refused:
        print(refused, file=sys.stderr)  # noqa: T201
        return 1
    except (KafkaError, TimeoutError) as error:
        reason = f"Kafka at {servers} does not answer ({type(error).__name__})."
        print(f"{reason} Check KAFKA_BOOTSTRAP_SERVERS and that the brokers run.", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
