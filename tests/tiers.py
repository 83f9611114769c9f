"""How long the tests of later rooms may take: a limit for each marker, held where all of them are run.

Seconds are the tests' own, over the workers that run beside each other; tests of test-full are not counted. A room
fails at twice its limit. Shared machines are slower still on some days: where all other tests, which have no limit,
took more than they usually do, the limits grow as much.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

import pytest

# Marker -> minutes on two idle cores that its tests may add to `make test`.
MINUTES = {
    "inputs": 0.5, "trust": 2.0, "admins": 1.0, "programs": 1.0, "notebooks": 0.5, "throughput": 0.5, "pages": 0.5,
}  # fmt: skip
_SLACK = 2.0
# What all tests without such a marker take together, on two idle cores.
USUAL_MINUTES = 13.0


class Tiers:
    """Adds up the seconds of each marker, and fails a run in which one has taken too many."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.others = 0.0

    def add(self, keywords: dict[str, Any], seconds: float) -> None:
        """Count a phase of a test for the markers that it has."""
        if "full" in keywords:
            return
        limited = MINUTES.keys() & keywords.keys()
        for name in limited:
            self.seconds[name] += seconds
        if not limited:
            self.others += seconds

    def over(self, workers: int) -> list[str]:
        """What to say of the markers that have taken too long."""
        slack = _SLACK * max(1.0, self.others / workers / 60 / USUAL_MINUTES)
        return [
            f"tests marked {name} took {self.seconds[name] / workers / 60:.1f} minutes, of {MINUTES[name]:g}: "
            "make them faster, or move some to test-full"
            for name in sorted(self.seconds)
            if self.seconds[name] / workers > 60 * MINUTES[name] * slack
        ]

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test, where the run was started."""
        self.add(dict(report.keywords), report.duration)

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run, unless it has failed already."""
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or session.config.getoption("numprocesses", 1) or 1)
        if "PYTEST_XDIST_WORKER" in os.environ:
            return
        for words in self.over(workers):
            print(f"\n{words}")
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
