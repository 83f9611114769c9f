"""What on_output may make of a row, and what of it is written."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import crafted
from tests.crafted import make_job
from tests.marks import needs_torch
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.programs, needs_torch]


@pytest.fixture
def take(tmp_path: Path) -> Any:
    """Has a program of one function take a row, on the leader unless told otherwise."""
    from vllm_hpc.engine.health.rank_record import RankReport
    from vllm_hpc.engine.programs.load import UserProgram
    from vllm_hpc.engine.programs.rows import RowProgram

    report = RankReport(make_job(tmp_path / "job"), 0, 0, 1)

    def taken(on_output: Any, row: Row, is_leader: bool = True) -> Row:
        user = UserProgram(SimpleNamespace(on_output=on_output), set())
        context: Any = SimpleNamespace(is_leader=is_leader)
        return RowProgram(user, context, report).take(row)

    return taken


def test_a_change_in_place_and_another_dict_are_written(take: Any) -> None:
    assert take(lambda ctx, row: row.update(norm=1.5), crafted.result(3))["norm"] == 1.5
    assert take(lambda ctx, row: {**row, "norm": 2}, crafted.result(3))["norm"] == 2
    assert take(lambda ctx, row: None, crafted.result(3)) == crafted.result(3)


def test_what_is_written_is_a_copy(take: Any) -> None:
    kept: list[Row] = []

    def on_output(ctx: object, row: Row) -> None:
        row["norms"] = [1]
        kept.append(row)

    found = take(on_output, crafted.result(3))
    kept[0]["norms"].append(2)
    assert found["norms"] == [1]


def test_a_row_with_an_error_is_not_taken(take: Any) -> None:
    row: Row = {"index": 1, "id": "1", "error": {"type": "ValueError", "message": "no"}}
    assert take(lambda ctx, row: 1 / 0, row) is row


def test_a_row_may_be_made_an_error(take: Any) -> None:
    error = {"type": "TooDull", "message": "no"}
    assert take(lambda ctx, row: row.update(error=error), crafted.result(3))["error"] == error


def test_what_other_ranks_make_of_a_row_is_not_looked_at(take: Any) -> None:
    assert take(lambda ctx, row: {"index": object()}, crafted.result(3), is_leader=False)["index"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"index": 4}, "must leave index of row '3' as it was"),
        ({"id": 3, "completion_tokens": 9}, "must leave id and completion_tokens of row '3' as it was"),
        ({"norm": {1, 2}, "x": object()}, "must leave row '3' as JSON"),
        ({"norm": {("a",): object()}}, "must leave row '3' as JSON"),
        ({"text": "\ud800"}, "must leave row '3' as JSON"),
        ({"error": "no"}, "an error of row '3' must be a dict with type and message, both text"),
        ({"error": {"type": "T"}}, "an error of row '3' must be a dict"),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_line(take: Any, change: Row, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as raised:
        take(lambda ctx, row: row.update(change), crafted.result(3))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("code", [0, None, 3])
def test_an_exit_in_on_output_is_an_error_in_its_line(take: Any, code: int | None) -> None:
    """A rank that ended with 0 would have its rows run again, and end again."""

    def on_output(ctx: object, row: Row) -> None:
        sys.exit(code)

    with pytest.raises(RuntimeError, match=rf"on_output called sys\.exit\({code}\), and rows are left") as raised:
        take(on_output, crafted.result(3))
    assert raised.traceback[-1].name == "on_output"


@pytest.mark.parametrize("name", ["setup", "teardown"])
def test_an_exit_with_0_ends_setup_or_teardown_alone(tmp_path: Path, name: str) -> None:
    from vllm_hpc.engine.health.rank_record import RankReport
    from vllm_hpc.engine.programs.load import UserProgram
    from vllm_hpc.engine.programs.rows import RowProgram

    def part(ctx: Any) -> None:
        sys.exit(ctx.code)

    report = RankReport(make_job(tmp_path / "job"), 0, 0, 1)
    for code in (0, 3):
        context: Any = SimpleNamespace(code=code)
        program = RowProgram(UserProgram(SimpleNamespace(**{name: part}), set()), context, report)
        call = program.begin if name == "setup" else program.end
        if code == 0:
            call()
        else:
            with pytest.raises(SystemExit):
                call()


@pytest.mark.parametrize("returned", ["text", 5, [("index", 3)]])
def test_what_is_no_row_is_refused(take: Any, returned: object) -> None:
    with pytest.raises(TypeError, match="on_output must return a dict, or None for the row that it got, not"):
        take(lambda ctx, row: returned, crafted.result(3))


def test_a_tensor_in_a_row_is_refused(take: Any) -> None:
    import torch

    with pytest.raises(TypeError, match=r"must leave row '3' as JSON .*Tensor"):
        take(lambda ctx, row: row.update(norm=torch.ones(2)), crafted.result(3))
