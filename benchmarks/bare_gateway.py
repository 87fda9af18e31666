"""The baseline for the gateway: the work that no implementation can leave out, without any of our code.

granian and ASGI, one HMAC, aiokafka with acks=all. Run as
`python -m benchmarks.bare_gateway PORT BOOTSTRAP_SERVERS TOPIC SECRET`.
"""

import hashlib
import hmac
import sys
from typing import Any

from aiokafka import AIOKafkaProducer
from granian import Granian
from granian.constants import Interfaces, Loops

PORT, BOOTSTRAP_SERVERS, TOPIC, SECRET = sys.argv[1:] if len(sys.argv) == 5 else ("0", "", "", "")
KEY = SECRET.encode()
PRODUCERS: list[AIOKafkaProducer] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers 200 once Kafka has the body, 400 when its signature is wrong."""
    if scope["type"] == "lifespan":
        await receive()
        producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP_SERVERS, acks="all")
        await producer.start()
        PRODUCERS.append(producer)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await producer.stop()
        await send({"type": "lifespan.shutdown.complete"})
        return
    status = 200
    if scope["method"] == "POST":
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        header = next(value for name, value in scope["headers"] if name == b"stripe-signature").decode()
        parts = dict(part.split("=", 1) for part in header.split(","))
        expected = hmac.new(KEY, parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        if hmac.compare_digest(expected, parts["v1"]):
            await PRODUCERS[0].send_and_wait(TOPIC, body, key=parts["v1"][:27].encode())
        else:
            status = 400
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


if __name__ == "__main__":
    Granian(
        "benchmarks.bare_gateway:app",
        address="127.0.0.1",
        port=int(PORT),
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        workers=1,
        websockets=False,
        log_enabled=False,
    ).serve()
