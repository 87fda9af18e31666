"""`python -I probe.py PORT PATH`: a container's health check. Ends with 0 if this container answers 200 there."""

import http.client
import sys

TIMEOUT_S = 4.0


def main(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"{path}: {type(error).__name__}: {error}\n")
        return 1
    if answer.status != 200:
        sys.stdout.write(f"{path}: {answer.status} {body}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
