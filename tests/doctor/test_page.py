"""docs/doctor.md lists every check that the code makes, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.admins

ROOT = Path(__file__).parents[2]


def test_the_page_has_every_check() -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "vllm_hpc" / "doctor").glob("*.py")))
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    made = set(re.findall(r'(?:Finding|refused)\(\s*"([\w-]+)"', code))
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert made == {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
