"""Generated hostile inputs on every surface. Each case has a seed, which is in its test's name:

python -m pytest "tests/hostile/test_generated.py::test_case[options-17]"      that one, alone
python -m tests.hostile options 5000 6000                                      more of them
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.hostile.cases import CANARY, Case, Edit
from tests.hostile.desk import make_finished
from tests.hostile.generate import SURFACES, make
from tests.hostile.generate_options import ROWS
from tests.hostile.generate_rows import make_row
from tests.hostile.generate_values import json_bytes
from tests.hostile.oracle import judge
from tests.marks import needs_torch
from tests.real_jobs import PATIENCE_S, submit_tiny
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.trust
# Keys with which a row is another thing, or refused before the job is made.
_REFUSED = {"body", "custom_id", "error", "index"}
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


@pytest.mark.ranks
@pytest.mark.full
def test_generated_rows_run(tmp_path: Path) -> None:
    """Through real ranks: each row has a result or an error, in order, whatever is in it."""
    rows = [row for seed in range(400) if (row := runnable(seed, tmp_path / "row.jsonl"))]
    job = submit_tiny(None, tmp_path, rows, max_tokens=4)
    status = job.wait(PATIENCE_S)
    assert status.state in ("COMPLETED", "PARTIAL"), (status, job.logs()[-2000:])
    assert [row["index"] for row in job.results()] == list(range(len(rows)))
    assert status.rows.done + status.rows.failed == len(rows) > 200


def runnable(seed: int, file: Path) -> Row | None:
    """A generated row that a submission takes, without a limit that the rehearsal would take literally."""
    made = make_row(Random(f"row {seed}"))
    if not isinstance(made, dict) or made.keys() & _REFUSED or "max_tokens" in str(made) or "'n'" in str(made):
        return None
    file.write_bytes(json_bytes(made))
    try:
        (row,) = Intake(str(file), reading=Reading.of(Request(model="none"))).rows()
    except InputError:
        return None
    return {**made, "id": str(seed)} if "error" not in row else None


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
