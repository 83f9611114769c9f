"""A program that is an object in a notebook: pickled by value, with its facts from the object."""

from __future__ import annotations

import functools
import hashlib
import pickle
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import vllm_hpc
from tests.crafted import make_folder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.programs.pickled import find_object

pytestmark = pytest.mark.programs


class Rows:
    needs_hooks = True

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def on_output(self, ctx: Any, row: dict[str, Any]) -> None:
        row["twice"] = self.factor


class Needy(Rows):
    def __init__(self, factor: int) -> None: ...


class Both(Rows):
    def run(self, ctx: Any) -> None: ...


def drive(ctx: Any) -> None: ...


class Lazy:
    async def setup(self, ctx: object) -> None: ...


class Short:
    def on_output(self, ctx: object) -> None: ...


class LazyCall:
    async def __call__(self, ctx: object) -> None: ...


class Touchy:
    @property
    def run(self) -> None:
        raise ValueError("a\nb")


class Leaving(Lazy):
    setup = None  # type: ignore[assignment]

    def run(self, ctx: object) -> None: ...

    def __reduce__(self) -> str:
        raise SystemExit(3)


async def later(ctx: Any) -> None: ...


@pytest.mark.parametrize(
    ("thing", "name", "expected"),
    [
        (Rows, "Rows", (False, True)),
        (Rows(3), "Rows", (False, True)),
        (Needy(3), "Needy", (False, True)),
        (drive, "drive", (True, False)),
        (lambda ctx: None, "<lambda>", (True, False)),
        (functools.partial(drive), "partial", (True, False)),
    ],
)  # fmt: skip
def test_an_object_is_pickled_with_its_facts(thing: object, name: str, expected: tuple[bool, bool]) -> None:
    found = find_object(thing)
    program = found.program
    assert (program.kind, program.name) == ("pickle", name)
    assert (program.drives_engine, program.needs_hooks) == expected
    assert found.content is not None
    assert program.sha256 == hashlib.sha256(found.content).hexdigest()
    pickle.loads(found.content)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (3, "program int: it has none of setup(ctx)"),
        (object(), "program object: it has none of"),
        (Needy, "program Needy: ranks call it without arguments: give those of __init__ defaults, or give an instance"),
        (Both, "program Both: it has run, which drives the engine itself, and so no on_output"),
        (lambda: None, "program test_pickled.<lambda>: it must be a function of one argument, ctx"),
        (later, "program later: it must be a plain function, neither async nor a generator"),
        (Lazy, "program Lazy: setup must be a plain method, neither async nor a generator"),
        (Lazy(), "program Lazy: setup must be a plain method"),
        (Short, "program Short: on_output must take self, ctx, row"),
        (Short(), "program Short: on_output must take self, ctx, row"),
        (LazyCall(), "program LazyCall: it must be a plain function, neither async nor a generator"),
        (Touchy(), "program Touchy cannot be looked at: ValueError: a b: correct its properties"),
        (functools.partial(drive, threading.Lock()), "it must be a function of one argument, ctx"),
    ],
)  # fmt: skip
def test_what_no_rank_could_run_is_refused(thing: object, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        find_object(thing)
    assert said.replace("test_pickled.", "") in str(refused.value)


def test_what_cannot_be_pickled_is_told_in_a_line() -> None:
    rows = Rows()
    rows.factor = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(RequestError, match=r"^program Rows cannot be pickled: .*lock.*: keep models, locks"):
        find_object(rows)


def test_what_exits_as_it_is_pickled_is_told_in_a_line() -> None:
    with pytest.raises(RequestError, match=r"^program Leaving cannot be pickled: 3: keep models"):
        find_object(Leaving())


def test_one_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.spec.programs.pickled.MOST_BYTES", 1 << 20)
    rows = Rows()
    rows.factor = bytes(2 << 20)  # type: ignore[assignment]
    with pytest.raises(RequestError, match="program Rows is 2 MiB pickled, and must be at most 1 MiB: load what"):
        find_object(rows)


def test_ranks_import_what_it_is_of_from_where_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_lib.py").write_text("def go(ctx): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import their_lib  # type: ignore[import-not-found]

    assert find_object(their_lib.go).program.folder == str(tmp_path)
    assert find_object(textwrap.dedent).program.folder == ""  # of the ranks' Python, too


def test_it_is_submitted_from_python(desk: Path) -> None:
    make_folder(desk / "model")
    rows = [{"prompt": "a"}]
    Path("in.jsonl").write_text('{"prompt": "a"}\n' * len(rows))
    job = vllm_hpc.submit("model", input="in.jsonl", scheduler="slurm", program=Rows(5), gpus_per_node=1, name="p")
    record = job.folder.job()
    assert record.program is not None and record.has_rows
    assert record.request.program == f"{__name__}:Rows (pickled)"
    assert record.plan.engine["enforce_eager"] is True
    content = job.folder.program_pickle.read_bytes()
    assert hashlib.sha256(content).hexdigest() == record.program.sha256
    assert pickle.loads(content).factor == 5
    driving = vllm_hpc.submit("model", scheduler="slurm", program=drive, gpus_per_node=1, name="d").folder.job()
    assert (driving.has_rows, driving.rows) == (False, 0)
