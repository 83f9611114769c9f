"""Private jobs (--private): a folder that nobody else enters, and files in it that nobody else reads.

The folder's mode says it from then on, to whatever writes in it: ranks on any node, 'collect', 'resume'.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PRIVATE_UMASK = 0o077


def is_private(folder: Path) -> bool:
    """Whether nobody but its owner may enter the folder; false where it cannot be seen."""
    with suppress(OSError):
        return not folder.stat().st_mode & 0o077
    return False


@contextmanager
def private_files(wanted: bool) -> Iterator[None]:
    """If ``wanted``, what is made by this process, and by those that it starts, is for its user alone.

    A umask is the whole process's: other threads make such files meanwhile, too.
    """
    before = os.umask(PRIVATE_UMASK) if wanted else None
    try:
        yield
    finally:
        if before is not None:
            os.umask(before)
