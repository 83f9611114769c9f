"""cancel of several jobs: a line each, and the ones that cannot be cancelled do not keep the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.named_jobs import named_job
from tests.conftest import Cli
from tests.crafted import make_job

pytestmark = pytest.mark.notebooks


@pytest.fixture
def sweep(desk: Path) -> Path:
    """Two jobs whose scheduler no longer has them, one that has ended, and one of a scheduler that is not here."""
    runs = desk / "runs"
    for name in ("sweep-1", "sweep-2"):
        named_job(runs / name, rows=[])
    named_job(runs / "done")
    make_job(runs / "sweep-lost", scheduler="gone")
    return runs


def test_each_is_a_line_and_one_that_cannot_be_cancelled_is_an_error(sweep: Path, run_cli: Cli) -> None:
    ran = run_cli("cancel", "sweep-1", sweep / "done", "sweep-lost", "sweep-1")
    assert ran.code == 1
    assert ran.out == "sweep-1: had ended (FAILED)\ndone: had ended (COMPLETED)\n"
    assert ran.err.startswith("Error: sweep-lost: ") and ran.err.count("\n") == 1


def test_a_pattern_is_all_that_fit_and_a_list_in_json(sweep: Path, run_cli: Cli) -> None:
    ran = run_cli("cancel", "sweep-[12]", "--json")
    assert (ran.code, [Path(job["job"]).name for job in json.loads(ran.out)]) == (0, ["sweep-1", "sweep-2"])
    assert isinstance(json.loads(run_cli("cancel", "done*", "--json").out), list)
    assert isinstance(json.loads(run_cli("cancel", "done", "--json").out), dict)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument 'JOB...'"),
        (["nothing-*"], "no job of yours under 'runs' fits 'nothing-*'"),
        (["sweep-1", "nothing"], "no job 'nothing'"),
        (["sweep-1", "sweep-2", "--job-id", "5"], "--job-id is the id of one job, but there are 2"),
        (["sweep-"], "'sweep-' fits 3 jobs"),
    ],
)
def test_nothing_is_cancelled_where_one_word_is_wrong(sweep: Path, run_cli: Cli, words: list[str], said: str) -> None:
    ran = run_cli("cancel", *words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert said in ran.err
    assert list(sweep.glob("*/control/cancelled")) == []
