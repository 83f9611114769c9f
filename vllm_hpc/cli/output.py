"""stdout: JSON and bytes for programs, a console for people. rich takes long to import, and only people need it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_json(record: Any) -> None:
    """One value on stdout."""
    import msgspec

    print_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def print_bytes(content: bytes) -> None:
    """Bytes on stdout as they are, whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def stdout_console() -> Console:
    """stdout; where that is no terminal, wide enough that programs that read lines get whole ones."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)
