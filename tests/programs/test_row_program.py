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
        ({"index": 3.0}, "must leave index of row '3' as it was"),
        ({"line": {}}, "must give row '3' no 'line', which has a meaning: rename it"),
        ({"rehearsal": True}, "must give row '3' no 'rehearsal', which has a meaning"),
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


def test_true_is_no_index(take: Any) -> None:
    with pytest.raises(ValueError, match="must leave index of row '1' as it was"):
        take(lambda ctx, row: row.update(index=True), crafted.result(1))


def test_of_a_batch_the_line_may_change_and_must_stay_one(take: Any) -> None:
    row = crafted.result(3, line={"custom_id": "a"})
    assert take(lambda ctx, row: row["line"].update(x=1), row)["line"] == {"custom_id": "a", "x": 1}
    with pytest.raises(ValueError, match="must leave line of row '3' a dict: it is what is written"):
        take(lambda ctx, row: row.pop("line") and None, crafted.result(3, line={"custom_id": "a"}))


def test_a_row_that_no_reader_takes_is_refused(take: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.engine.programs.rows._MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="row '3' is 2 MiB long, and must be at most 1 MiB"):
        take(lambda ctx, row: row.update(x="x" * (2 << 20)), crafted.result(3))


@pytest.mark.parametrize(("code", "said"), [(None, r"\(\)"), (0, r"\(0\)"), ("bye", r"\('bye'\)")])
def test_an_exit_while_rows_go_on_is_an_error_with_its_place(take: Any, code: object, said: str) -> None:
    def on_output(ctx: object, row: Row) -> None:
        raise SystemExit(code)

    with pytest.raises(RuntimeError, match=f"on_output called sys.exit{said}, but the job's rows go on") as raised:
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


def test_a_part_of_which_nothing_has_run_is_an_error() -> None:
    from vllm_hpc.engine.programs.call import call_part

    async def later(ctx: object) -> None: ...

    def one_by_one(ctx: object) -> Any:
        yield ctx

    with pytest.raises(TypeError, match="run returned a generator, of which nothing has run: make it a plain method"):
        call_part("run", one_by_one, None)
    made = later(None)
    with pytest.raises(TypeError, match="setup returned a coroutine, of which nothing has run"):
        call_part("setup", lambda ctx: made, None)
    made.close()


@pytest.mark.parametrize("returned", ["text", 5, [("index", 3)]])
def test_what_is_no_row_is_refused(take: Any, returned: object) -> None:
    with pytest.raises(TypeError, match="on_output must return a dict, or None for the row that it got, not"):
        take(lambda ctx, row: returned, crafted.result(3))


def test_a_tensor_in_a_row_is_refused(take: Any) -> None:
    import torch

    with pytest.raises(TypeError, match=r"must leave row '3' as JSON .*Tensor"):
        take(lambda ctx, row: row.update(norm=torch.ones(2)), crafted.result(3))
