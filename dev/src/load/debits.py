"""Load generator for debits over HTTP: each request has a new reference, and tenants take turns.

`python -m load.debits URL --token … --tenants 1000 --batch 100` posts to `/api/ledger/debits`, or, with a batch, to
`/api/ledger/debits/batch`; prints one line of JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import count

import uvloop

from load.http_load import address_of, measure, post_request
from shared.ids import new_id

PATH = "/api/ledger/debits"


def _debits(host: str, token: str, tenants: int, batch: int) -> Callable[[], bytes]:
    numbers, run = count(), new_id("load")
    headers = f"Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n"

    def debit() -> str:
        number = next(numbers)
        return (
            f'{{"tenantId":"tenant-{number % tenants + 1}","reference":"{run}-{number}",'
            f'"credits":{number % 50 + 1},"purpose":"purpose-{number % 7}"}}'
        )

    def request() -> bytes:
        if batch == 1:
            return post_request(host, PATH, debit().encode(), headers)
        body = f'{{"debits":[{",".join(debit() for _ in range(batch))}]}}'
        return post_request(host, f"{PATH}/batch", body.encode(), headers)

    return request


def main(arguments: list[str]) -> int:
    """Prints the result; 1 if anything but 200 was answered."""
    parser = argparse.ArgumentParser(prog="python -m load.debits", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--token", required=True)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--warmup-s", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args(arguments)
    host, port, _path = address_of(options.url)
    requests = _debits(f"{host}:{port}", options.token, options.tenants, options.batch)
    result = uvloop.run(
        measure(
            host, port, requests, connections=options.connections, warmup_s=options.warmup_s, seconds=options.seconds
        )
    )
    print(json.dumps(asdict(result)))
    return 0 if set(result.statuses) == {"200"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
