"""The limits of the tiers can be passed, and are."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.faults.__main__ import read_faults
from tests.tiers import MINUTES, USUAL_MINUTES, Tiers

ROOT = Path(__file__).parents[1]


def test_a_marker_that_takes_too_long_is_named() -> None:
    tiers = Tiers()
    tiers.add({"trust": 1, "test_a": 1}, 200.0)
    tiers.add({"trust": 1}, 60.0)
    tiers.add({"inputs": 1}, 59.0)
    tiers.add({"other": 1}, 500.0)
    tiers.add({"inputs": 1, "full": 1}, 5000.0)
    (words,) = tiers.over(workers=1)
    assert words.startswith("tests marked trust took 4.3 minutes, of 2")
    assert tiers.over(workers=2) == []


@pytest.mark.parametrize(("others", "is_over"), [(0.5, True), (1.0, True), (1.2, False)])
def test_limits_grow_where_all_others_are_slow_too(others: float, is_over: bool) -> None:
    tiers = Tiers()
    tiers.add({"trust": 1}, 260.0)
    tiers.add({}, 60 * USUAL_MINUTES * others)
    assert bool(tiers.over(workers=1)) == is_over


@pytest.mark.parametrize(("minutes", "code", "workers"), [(0.001, 1, ["-n", "1"]), (1.0, 0, [])])
def test_a_run_with_such_a_marker_fails(tmp_path: Path, minutes: float, code: int, workers: list[str]) -> None:
    """Whether the tests passed or not, and where they ran on workers."""
    (tmp_path / "conftest.py").write_text(
        "from tests import tiers\n"
        f"tiers.MINUTES = {{'trust': {minutes}}}\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(tiers.Tiers())\n"
    )
    (tmp_path / "test_slow.py").write_text(
        "import pytest, time\n@pytest.mark.trust\ndef test_slow():\n    time.sleep(0.2)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, "--rootdir", ".", "test_slow.py"],
        cwd=tmp_path, env={**_outside(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout
    assert "1 passed" in ran.stdout
    assert ("tests marked trust took" in ran.stdout) == bool(code)


def _outside() -> dict[str, str]:
    """The environment without this run's pytest in it: a worker of xdist leaves limits to who started it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def test_every_limited_marker_is_one_of_pytests() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    markers = {line.split(":")[0] for line in config["markers"]}
    assert MINUTES.keys() <= markers


def test_each_hand_made_fault_is_one_of_todays_code() -> None:
    """`make faults` takes an hour, and is run seldom: an entry whose text has gone would be found only then."""
    assert len(read_faults()) == 40
