"""Runs a program and keeps what it prints, for so long, and so much of it."""

from __future__ import annotations

import io
import os
import selectors
import subprocess
import time
from typing import IO, NamedTuple, cast

# Of stdout, and of stderr: qstat's JSON takes some 4 KiB for a job, so that these are ten thousands of jobs.
MOST_BYTES = 128 << 20
_PIECE = 1 << 16


class Printed(NamedTuple):
    """How a program ended, and what it printed."""

    code: int
    out: str
    err: str


class PrintsTooMuchError(Exception):
    """It printed more than MOST_BYTES, and was killed."""


def capture(argv: list[str], timeout: float, environment: dict[str, str]) -> Printed:
    """Run a program without stdin. Raises OSError, subprocess.TimeoutExpired, PrintsTooMuchError."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    until = time.monotonic() + timeout
    with process:
        try:
            pipes = (cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr))
            out, err = _read(pipes, argv, timeout, until)
            return Printed(process.wait(max(0.0, until - time.monotonic())), _text(out), _text(err))
        except BaseException:
            process.kill()
            raise


def _read(pipes: tuple[IO[bytes], ...], argv: list[str], timeout: float, until: float) -> list[bytearray]:
    """What comes through these pipes until their ends."""
    found = [bytearray() for _ in pipes]
    with selectors.DefaultSelector() as selector:
        for pipe, kept in zip(pipes, found, strict=True):
            selector.register(pipe, selectors.EVENT_READ, kept)
        while selector.get_map():
            ready = selector.select(max(0.0, until - time.monotonic()))
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(argv, timeout)
            for key, _ in ready:
                data = os.read(key.fd, _PIECE)
                key.data.extend(data)
                if not data:
                    selector.unregister(key.fileobj)
                if len(key.data) > MOST_BYTES:
                    raise PrintsTooMuchError
    return found


def _text(content: bytearray) -> str:
    return io.TextIOWrapper(io.BytesIO(content), errors="replace").read()
