"""The limits of the tiers can be passed, and are."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.tiers import MINUTES, Tiers

ROOT = Path(__file__).parents[1]


def test_a_marker_that_takes_too_long_is_named() -> None:
    tiers = Tiers()
    tiers.add({"trust": 1, "test_a": 1}, 200.0)
    tiers.add({"trust": 1}, 60.0)
    tiers.add({"inputs": 1}, 59.0)
    tiers.add({"other": 1}, 5000.0)
    (words,) = tiers.over(workers=1)
    assert words.startswith("tests marked trust took 4.3 minutes, of 2")
    assert tiers.over(workers=2) == []


def test_every_limited_marker_is_one_of_pytests() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    markers = {line.split(":")[0] for line in config["markers"]}
    assert MINUTES.keys() <= markers
