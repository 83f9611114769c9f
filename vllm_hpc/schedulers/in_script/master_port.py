"""Choose the port for the ranks' rendezvous: ``vllm_hpc.in_job rendezvous JOB_ID``, run inside the job on its head.

The port is outside the ephemeral range, where any program's outgoing connection may use it, and tested to be free.
Jobs that start on one node at the same moment get different ports, because each starts its search from its id.
"""

from __future__ import annotations

import socket
import zlib
from pathlib import Path

FIRST, LAST = 10_000, 65_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def choose_port(job_id: str) -> int:
    """A TCP port that is free on this host now. Raises OSError if there is none."""
    low, high = (int(field) for field in _EPHEMERAL.read_text().split())
    ports = [port for port in range(FIRST, LAST) if not low <= port <= high] or list(range(FIRST, LAST))
    start = zlib.crc32(job_id.encode()) % len(ports)
    for port in ports[start:] + ports[:start]:
        if _is_free(port):
            return port
    raise OSError("no free TCP port on this host")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("", port))
        except OSError:
            return False
        return True


def main(argv: list[str]) -> int:
    """Print a port for the job whose id is ``argv[0]``."""
    print(choose_port(argv[0]))
    return 0
