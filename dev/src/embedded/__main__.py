"""`python -m embedded up | fetch | lock-kafka`."""

import argparse
import sys
from pathlib import Path

from embedded.jars import JarsUnavailable, kafka_class_path, write_lock
from embedded.paths import DirectoryInUse, console
from embedded.ports import PortInUse
from embedded.process import NotReady


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m embedded", description="The stack on this machine, without Docker."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="start everything, serve until Ctrl-C")
    up_parser.add_argument("--data", type=Path, help="keep the data in this directory")
    commands.add_parser("fetch", help="fetch Kafka's jars into the cache")
    commands.add_parser("lock-kafka", help="resolve Kafka's jars anew and pin them")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "up":
                from embedded.up import up

                return up(options.data)
            case "fetch":
                kafka_class_path()
            case _:
                console.print(f"{write_lock()} jars are pinned.")
    except (NotReady, JarsUnavailable, DirectoryInUse, PortInUse) as problem:
        console.print(str(problem), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
