"""Copies what a rank prints to its log, with the rank before each line: --debug-ranks. Run as a script, by its path.

A process of its own, for the last lines of a rank that a signal ends are those that matter: they are in the pipe, and
are copied when the rank is gone. It ends when nobody has the other end any more. It imports next to nothing.
"""

import os
import signal
import sys

_PIECE = 1 << 16


def main(prefix: bytes) -> None:
    """Copy standard input to standard output, with ``prefix`` at the beginning of each line."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # whoever ends the rank wants its last lines
    at_start = True
    while piece := os.read(0, _PIECE):
        text = piece[:-1].replace(b"\n", b"\n" + prefix) + piece[-1:]  # the next line may never come
        _write((prefix if at_start else b"") + text)
        at_start = piece.endswith(b"\n")


def _write(content: bytes) -> None:
    """Write it all; on a full disk drop it and go on, or the rank would wait for this process."""
    while content:
        try:
            content = content[os.write(1, content) :]
        except OSError:
            return


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
