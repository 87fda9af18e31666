from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from embedded.servers import KafkaServer


async def test_kafka_acknowledges_a_record(kafka_server: KafkaServer) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic("embedded.acknowledged", num_partitions=1, replication_factor=1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap_servers, acks="all")
    await producer.start()
    metadata = await producer.send_and_wait("embedded.acknowledged", b"value", key=b"key")
    await producer.stop()
    assert metadata.offset == 0
