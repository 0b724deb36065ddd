"""`python -m cli.probe`: a container's health. Exits with 0 when the service beside it says that it is ready.

It asks `/readyz` on the metrics port: the one in RESHELVE_METRICS_PORT, else whichever of the services' own answers,
since one service runs in a container. Imports next to nothing: it is started every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys

_OWN_PORTS = (9100, 9101, 9102, 9103)
_TIMEOUT_S = 3.0
_READY = 200


def probe(ports: tuple[int, ...]) -> str:
    """An empty text when the first service that listens on one of the ports is ready, else what is wrong."""
    for port in ports:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            text = answer.read(1000).decode(errors="replace")
        except ConnectionRefusedError:
            continue
        except (OSError, http.client.HTTPException) as error:
            return f"port {port}: {error or type(error).__name__}"
        finally:
            connection.close()
        return "" if answer.status == _READY else text
    return f"no service listens on {', '.join(map(str, ports))}"


def main() -> int:
    """The command."""
    given = os.environ.get("RESHELVE_METRICS_PORT")
    trouble = probe((int(given),) if given else _OWN_PORTS)
    if trouble:
        print(trouble, file=sys.stderr)
    return bool(trouble)


if __name__ == "__main__":
    sys.exit(main())
