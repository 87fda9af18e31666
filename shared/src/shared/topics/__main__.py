"""`python -m shared.topics create|check`: creates the missing topics, or reports how the topics differ."""

import asyncio
import sys

from aiokafka.errors import KafkaError
from pydantic import Field

from shared.commands import exit_with
from shared.settings import KafkaSettings, load_settings
from shared.topic_admin import TopicsWrong, check_topics, create_topics


class TopicSettings(KafkaSettings):
    """Kafka's address, and on how many brokers each topic is replicated."""

    kafka_replication_factor: int = Field(1, ge=1)


def main(arguments: list[str]) -> int:
    """Runs `create` or `check` with the environment's settings.

    Returns the exit code. 0: done, or the topics are as declared. 1: they are not, or Kafka does not answer. 2: usage.
    """
    settings = load_settings(TopicSettings)
    servers, prefix = settings.kafka_bootstrap_servers, settings.topic_prefix
    try:
        match arguments:
            case ["create"]:
                created = asyncio.run(create_topics(servers, prefix, settings.kafka_replication_factor))
                print(f"created {len(created)} topics" if created else "all topics exist")  # noqa: T201
            case ["check"]:
                asyncio.run(check_topics(servers, prefix))
                print("all topics are as declared")  # noqa: T201
            case _:
                print("usage: python -m shared.topics create|check")  # noqa: T201
                return 2
    except TopicsWrong as problem:
        print(problem, file=sys.stderr)  # noqa: T201
        return 1
    except KafkaError as error:
        reason = f"Kafka at {servers} does not answer ({type(error).__name__})."
        print(f"{reason} Check KAFKA_BOOTSTRAP_SERVERS and that the brokers run.", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
