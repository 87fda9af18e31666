"""Creates the declared topics, and checks that the topics in Kafka are as declared."""

from collections.abc import Iterator

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from shared.kafka import REQUEST_TIMEOUT_MS
from shared.topics import DEAD_LETTER_CONFIGURATION, TOPICS, dead_letter_name


class TopicsWrong(Exception):
    """Topics are missing or not as declared. The message names them and says what to do."""


def _declared_topics(prefix: str) -> Iterator[tuple[str, int, dict[str, str]]]:
    for topic in TOPICS:
        yield prefix + topic.name, topic.partitions, topic.configuration()
        for reader in topic.readers:
            yield prefix + dead_letter_name(topic.name, reader), 1, DEAD_LETTER_CONFIGURATION


async def create_topics(bootstrap_servers: str, prefix: str = "", replication_factor: int = 1) -> list[str]:
    """Creates the missing topics and returns their names. Existing topics are not changed."""
    minimum_in_sync = str(max(1, replication_factor - 1))
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        missing = [
            NewTopic(
                name=name,
                num_partitions=partitions,
                replication_factor=replication_factor,
                topic_configs={**configuration, "min.insync.replicas": minimum_in_sync, "max.message.bytes": "2097152"},
            )
            for name, partitions, configuration in _declared_topics(prefix)
            if name not in existing
        ]
        if missing:
            response = await admin.create_topics(missing, timeout_ms=REQUEST_TIMEOUT_MS)
            for name, code, *_ in response.topic_errors:  # pyright: ignore[reportAttributeAccessIssue]
                if code and for_code(code) is not TopicAlreadyExistsError:
                    raise TopicsWrong(f"Kafka refused to create {name}: {for_code(code).__name__}")
        return [topic.name for topic in missing]
    finally:
        await admin.close()


def _remedy(problems: list[str]) -> str:
    if any(problem.endswith("is missing") for problem in problems):
        return "Run `python -m shared.topics create`."
    return (
        "What exists is never changed by itself: alter these topics with Kafka's tools (docs/scaling.md, Partitions)."
    )


async def check_topics(bootstrap_servers: str, prefix: str = "") -> None:
    """Raises `TopicsWrong` unless every topic exists with the declared number of partitions and clean-up policy."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS)
    await admin.start()
    try:
        described = {
            topic["topic"]: len(topic["partitions"])
            for topic in await admin.describe_topics()
            if topic["error_code"] == 0
        }
        problems: list[str] = []
        declared = list(_declared_topics(prefix))
        present = [ConfigResource(ConfigResourceType.TOPIC, name) for name, *_ in declared if name in described]
        policies: dict[str, str] = {}
        for response in await admin.describe_configs(present) if present else []:
            for _code, _message, _type, name, entries in response.resources:  # pyright: ignore[reportAttributeAccessIssue]
                policies[name] = {entry[0]: entry[1] for entry in entries}.get("cleanup.policy", "")
        for name, partitions, configuration in declared:
            if name not in described:
                problems.append(f"{name} is missing")
            elif described[name] != partitions:
                problems.append(f"{name} has {described[name]} partitions, declared are {partitions}")
            elif policies.get(name) != configuration["cleanup.policy"]:
                problems.append(f"{name} is kept by {policies.get(name)!r}, not {configuration['cleanup.policy']!r}")
        if problems:
            raise TopicsWrong("; ".join(problems) + f". {_remedy(problems)}")
    finally:
        await admin.close()
