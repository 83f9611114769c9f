"""A limit on what this process may allocate for a while: whatever makes too much fails at once, with a MemoryError."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SIZES = Path("/proc/self/statm")
# The limit is the process's: two threads would restore each other's.
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def memory_limit(most: int) -> Iterator[None]:
    """Let the process grow by at most that many bytes of address space; a lower limit that it has stays."""
    with _ONE_AT_A_TIME:
        before, hard = resource.getrlimit(resource.RLIMIT_AS)
        limits = [limit for limit in (before, hard, _size() + most) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def _size() -> int:
    """The address space that this process has taken, in bytes."""
    return int(_SIZES.read_text().split()[0]) * resource.getpagesize()
