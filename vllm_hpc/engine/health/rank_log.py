"""--debug-ranks: each line of a rank's log begins with the rank and its node, those of C libraries as well."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from vllm_hpc.engine.health import log_relay
from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.spec.write_file import open_append

# Seconds that a rank which ends waits until its last lines are in the log, for whoever reads that then.
_LAST_LINES_S = 2.0


def prefix_lines(log: Path, rank: int, ranks: int) -> None:
    """Have all that this process and its children print go through a relay, from now on. Raises OSError.

    The relay is in a session of its own: what ends this process and its children must not end it.
    """
    prefix = f"[rank {rank}/{ranks} {node_name()}] "
    written = open_append(log)
    reader, writer = os.pipe()
    relay = subprocess.Popen(
        [sys.executable, "-I", "-S", log_relay.__file__, prefix],
        stdin=reader, stdout=written, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip
    os.close(reader)
    _flush()
    for stream in (1, 2):
        os.dup2(writer, stream)
    os.close(writer)
    atexit.register(_leave, relay, written)


def _leave(relay: subprocess.Popen[bytes], log: int) -> None:
    """Print the rest without the relay, and give it a moment to end; a child may hold on to it."""
    _flush()
    for stream in (1, 2):
        os.dup2(log, stream)
    give_up = time.monotonic() + _LAST_LINES_S
    while relay.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
