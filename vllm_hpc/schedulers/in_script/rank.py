"""One rank, as its script starts it: submitit finds in the job folder what it runs, and keeps its result there."""

from __future__ import annotations

from pathlib import Path

from submitit.core.submission import process_job


def main(argv: list[str]) -> int:
    """Run this process's rank of the job in ``argv[0]``. Raises whatever ended it, after that is on record."""
    process_job(Path(argv[0]) / "ranks")
    return 0
