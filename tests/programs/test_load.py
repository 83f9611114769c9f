"""How a rank finds a program: in the copy in the job folder, a module or a pickle; and what it refuses in a line."""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.programs.by_hand import file_program
from vllm_hpc.engine.programs.load import load_program
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.program import Program

pytestmark = pytest.mark.programs

COUNT = """
import dataclasses
import neighbour_of_program

@dataclasses.dataclass
class Count:
    rows: int = neighbour_of_program.FIRST

    def on_output(self, ctx, row):
        self.rows += 1
        raise ValueError("at row")

class Drives:
    needs_hooks: bool = True
    def run(self, ctx):
        return ctx

def drive(ctx):
    return ctx

class Needs:
    def __init__(self, path):
        pass
    def setup(self, ctx): ...

class Nothing:
    needs_hooks = False

class Odd:
    on_output = 5
    def run(self, ctx): ...

number = 5
"""


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    """What a program puts into this process, which a rank would end with."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.endswith("_of_program") or name in ("vllm_hpc_program", "count"):
            del sys.modules[name]


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return crafted.make_job(tmp_path / "job")


def given(job: JobFolder, name: str = "Count", text: str = COUNT, **facts: Any) -> Program:
    """The program as a file beside the job, with a neighbour, and its copy in the job folder."""
    code = job.path.parent / "code"
    program = file_program(code / "count.py", name, text, **facts)
    (code / "neighbour_of_program.py").write_text("FIRST = 3\n")
    job.program.write_text(text)
    return program


def test_a_file_is_run_from_its_copy_beside_its_neighbours(job: JobFolder) -> None:
    program = given(job)
    Path(program.source).write_text("raise RuntimeError('this was changed since')\n" * 30)
    found = load_program(job, program)
    assert found.on_output is not None
    assert (found.setup, found.run, found.teardown, found.needs_hooks) == (None, None, None, False)
    with pytest.raises(ValueError, match="at row") as raised:
        found.on_output(None, {})
    assert found.locate(raised.value) == "count.py:11"
    assert 'raise ValueError("at row")' in "".join(traceback.format_exception(raised.value))
    assert sys.modules["count"].__file__ == program.source
    assert sys.path[-1] == program.folder


@pytest.mark.parametrize(("name", "hooks"), [("Drives", True), ("drive", False)])
def test_what_has_run_and_a_function_drive(job: JobFolder, name: str, hooks: bool) -> None:
    found = load_program(job, given(job, name, drives_engine=True, needs_hooks=hooks))
    assert found.run is not None
    assert found.run("ctx") == "ctx"
    assert found.needs_hooks is hooks


def test_a_file_named_like_another_module_does_not_take_its_place(job: JobFolder) -> None:
    code = job.path.parent / "code"
    program = file_program(code / "wave.py", "drive", "def drive(ctx): ...\n", drives_engine=True)
    job.program.write_text("def drive(ctx): ...\n")
    load_program(job, program)
    import wave

    assert hasattr(wave, "open")
    assert "vllm_hpc_program" in sys.modules


def test_a_module_is_imported_where_it_is(job: JobFolder, tmp_path: Path) -> None:
    package = tmp_path / "lib" / "pkg_of_program"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "mod.py").write_text("class Mine:\n    def setup(self, ctx):\n        raise KeyError(ctx)\n")
    program = Program(kind="module", name="Mine", source="pkg_of_program.mod", folder=str(tmp_path / "lib"))
    try:
        found = load_program(job, program)
        assert found.setup is not None
        with pytest.raises(KeyError) as raised:
            found.setup("ctx")
        assert found.locate(raised.value) == "mod.py:3"
    finally:
        for name in ("pkg_of_program", "pkg_of_program.mod"):
            sys.modules.pop(name, None)


def pickled(job: JobFolder, target: object, **facts: Any) -> Program:
    cloudpickle = pytest.importorskip("cloudpickle")
    content = cloudpickle.dumps(target)
    job.program_pickle.write_bytes(content)
    return Program(kind="pickle", name="x", source="x", sha256=hashlib.sha256(content).hexdigest(), **facts)


def test_a_pickled_function_class_and_object(job: JobFolder) -> None:
    space: dict[str, Any] = {}
    exec("class Local:\n    def on_output(self, ctx, row):\n        return 7\ndef fn(ctx):\n    return ctx + 1", space)
    run = load_program(job, pickled(job, space["fn"], drives_engine=True)).run
    assert run is not None
    assert run(1) == 2
    for target in (space["Local"], space["Local"]()):
        on_output = load_program(job, pickled(job, target)).on_output
        assert on_output is not None
        assert on_output(None, {}) == 7


def test_a_pickle_of_another_python_is_not_loaded(job: JobFolder) -> None:
    program = pickled(job, eval("lambda ctx: None"), drives_engine=True)
    write_json(job.job_json, msgspec.structs.replace(job.job(), versions={"python": "3.2.1"}))
    with pytest.raises(RequestError, match=r"was pickled by Python 3\.2\.1, and ranks have 3"):
        load_program(job, program)


@pytest.mark.parametrize(
    ("name", "facts", "words"),
    [
        ("Count", {"drives_engine": True}, "has no run on this rank, unlike at the submission: write run in the class"),
        ("Drives", {"drives_engine": True}, "has needs_hooks on this rank, unlike at the submission"),
        ("Count", {"needs_hooks": True}, "has no needs_hooks on this rank"),
        ("Needs", {}, r"cannot be loaded: TypeError: .*path.*: correct it, and submit a new job"),
        ("Nothing", {}, "has none of setup, on_output, run, teardown: define one of them"),
        ("Odd", {"drives_engine": True}, "on_output of Odd must be a method, not 5"),
        ("Missing", {}, "has no 'Missing' here"),
        ("number", {}, "has none of setup"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(job: JobFolder, name: str, facts: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as raised:
        load_program(job, given(job, name, **facts))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ndef Count(:\n", r"cannot be loaded: SyntaxError: .*\(count.py, line 2\)"),
        ("import not_there_of_program\n", r"ModuleNotFoundError: .*not_there_of_program.* \(count.py:1\)"),
        ("x = 1\n\nexit(3)\n", r"SystemExit: 3 \(count.py:3\)"),
        ("class Count:\n @property\n def run(self):\n  raise ValueError('no')\n", r"ValueError: no \(count.py:4\)"),
        ("raise KeyboardInterrupt\n", r"KeyboardInterrupt \(count.py:1\)"),
        ("\0", "cannot be loaded: (SyntaxError|ValueError): .*null bytes"),
    ],
)
def test_an_error_at_the_top_of_a_file_is_told_with_its_line(job: JobFolder, text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load_program(job, given(job, text=text))


def test_a_copy_that_was_changed_or_is_no_file_is_not_run(job: JobFolder) -> None:
    program = given(job)
    job.program.write_text("import os; os._exit(9)")
    with pytest.raises(RequestError, match="was changed since the job was submitted: submit a new job"):
        load_program(job, program)
    job.program.unlink()
    with pytest.raises(RequestError, match=r"cannot read .*: submit a new job"):
        load_program(job, program)
    job.program.symlink_to(program.source)
    with pytest.raises(RequestError, match="must be a regular file, not a link"):
        load_program(job, program)
    job.program.unlink()
    os.mkfifo(job.program)
    with pytest.raises(RequestError, match="must be a regular file"):
        load_program(job, program)
