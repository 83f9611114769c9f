"""Generated hostile inputs on every surface. Each case has a seed, which is in its test's name:

python -m pytest "tests/hostile/test_generated.py::test_case[options-17]"      that one, alone
python -m tests.hostile options 5000 6000                                      more of them
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.cases import CANARY, Case, Edit
from tests.hostile.desk import make_finished
from tests.hostile.generate import SURFACES, make
from tests.hostile.generate_options import ROWS
from tests.hostile.oracle import Complaint, judge
from tests.hostile.pending import why_pending
from tests.marks import needs_torch

pytestmark = pytest.mark.trust
_FEWEST, _FEWEST_IN_ALL = 300, 2000


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the job that has ended once, when a case asks for it."""
    folder = tmp_path_factory.mktemp("finished")
    return cache(lambda: make_finished(folder))


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: names and paths of a case may be long."""
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-") as folder:
        yield Path(folder) / "case"


def cases() -> Iterator[Any]:
    for surface, (_, quick, more) in SURFACES.items():
        for seed in range(quick + more):
            name = f"{surface}-{seed}"
            marks = [pytest.mark.full] if seed >= quick else []
            yield pytest.param(surface, seed, id=name, marks=marks)


@needs_torch
@pytest.mark.parametrize(("surface", "seed"), list(cases()))
def test_case(surface: str, seed: int, place: Path, finished: Any) -> None:
    found = judge(make(surface, seed), place, finished)
    if reason := why_pending(surface, found):
        pytest.xfail(f"{reason}: {found[0].said[:200]}")
    again = f'python -m pytest "tests/hostile/test_generated.py::test_case[{surface}-{seed}]"'
    assert not found, "\n".join([f"{surface}, seed {seed}: {again}", *(f"{one.kind}: {one.said}" for one in found)])


def test_there_are_enough() -> None:
    assert sum(quick for _, quick, _ in SURFACES.values()) >= _FEWEST
    assert sum(quick + more for _, quick, more in SURFACES.values()) >= _FEWEST_IN_ALL


@pytest.mark.parametrize("surface", SURFACES)
def test_a_seed_is_one_case(surface: str) -> None:
    made = [make(surface, seed) for seed in range(20)]
    assert made == [make(surface, seed) for seed in range(20)]
    assert len({repr(one) for one in made}) > 10


# -- the oracle sees what it is for ----------------------------------------------------------------------------------
_SUBMIT = ("submit", "--rehearse", "--scheduler", "slurm", "--input", "rows.jsonl", "--name", "a")


def kinds(case: Case, place: Path, finished: Any) -> set[str]:
    return {one.kind for one in judge(case, place, finished)}


@needs_torch
@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("expansion", Case((_SUBMIT,), (ROWS,), {"sbatch": f"touch {CANARY}; echo 4711"})),
        ("outside", Case((_SUBMIT,), (ROWS,), {"sbatch": "touch ../home/a; echo 4711"})),
        ("written", Case((("list", "--job-dir", "runs"),), (), {"squeue": "touch a"}, has_job=True)),
        ("half", Case((_SUBMIT,), (ROWS,), {"sbatch": "[ $1 = --version ] || { mkdir a; echo no >&2; exit 1; }"})),
        ("secret", Case((("plan", "--rehearse", "--tp", "hunter2"),), secrets=("hunter2",))),
    ],
)
def test_what_is_wrong_is_seen(kind: str, case: Case, place: Path, finished: Any) -> None:
    assert kind in kinds(case, place, finished)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("hang", "import time; time.sleep(30)"),
        ("traceback", "1 / 0"),
        ("code", "raise SystemExit(4)"),
        ("line", "raise SystemExit(2)"),
        ("memory", "bytes(1 << 42)"),
        ("escape", "print('\\x1b[2J')"),
    ],
)
def test_what_a_command_does_wrong_is_seen(
    kind: str, code: str, place: Path, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        exec(code)
        raise SystemExit(0)

    monkeypatch.setattr("tests.hostile.oracle.main", main)
    monkeypatch.setattr("tests.hostile.oracle.LIMIT_S", 0.5)
    assert kinds(Case((("plan",),)), place, finished) == {kind}


@needs_torch
def test_a_plain_case_has_nothing_wrong(place: Path, finished: Any) -> None:
    asked = (_SUBMIT, ("status", "runs/a"), ("list",), ("resume", "runs/done"), ("collect", "runs/done"))
    case = Case(asked, (ROWS, Edit("runs/done/outputs.jsonl", "remove")), has_job=True, runs_script=True)
    assert judge(case, place, finished) == []


def test_a_script_that_expands_is_seen(place: Path, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a text had not been quoted."""
    monkeypatch.setattr("tests.hostile.desk.Desk.script", lambda desk: f"echo $(touch {CANARY})")
    assert kinds(Case((("list",),), runs_script=True), place, finished) == {"expansion"}


def test_what_is_pending_hides_nothing_else() -> None:
    assert why_pending("rows", [Complaint("escape", "a")])
    assert why_pending("rows", [Complaint("escape", "a"), Complaint("traceback", "b")]) is None
    assert why_pending("rows", []) is None
