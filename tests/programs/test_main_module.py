"""A script's code is run as Python runs a script: its exit code, its threads, its lines, its children."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_hpc.engine.programs.source import compile_copy, line_of, read_copy
from vllm_hpc.spec.errors import RequestError

pytestmark = pytest.mark.programs

# What a rank does with a script, without its job: SOURCE and COPY.
RUN = """
import hashlib, sys
from pathlib import Path
from vllm_hpc.engine.programs.main_module import ScriptExitError, run_as_main
from vllm_hpc.engine.programs.source import compile_copy, line_of, read_copy
from vllm_hpc.spec.program import Program
source, copy, sha256 = sys.argv[1:4]
program = Program(kind="script", name="script.py", source=source, folder=str(Path(source).parent), sha256=sha256)
try:
    run_as_main(compile_copy(read_copy(Path(copy), sha256), source), program, Path(copy))
except ScriptExitError as error:
    print(f"{error} ({line_of(error, source)})")
    sys.exit(error.rank_exit_code)
except Exception as error:
    import traceback
    traceback.print_exc(file=sys.stdout)
    print(line_of(error, source))
print("over")
"""
SPAWN = """
import multiprocessing
def name(_):
    return __file__
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(name, [0])[0])
"""


def run(folder: Path, code: str, later: str | None = None, errors: bool = False) -> tuple[int, str]:
    """The exit code of a script, and its output; ``later``: what its file is by the time it runs.

    ``errors``: whether tracebacks are expected.
    """
    source, copy = folder / "script.py", folder / "copy.py"
    copy.write_text(code)
    source.write_text(code if later is None else later)
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    words = [sys.executable, "-c", RUN, str(source), str(copy), digest]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert errors or "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("said", "number", "words"),
    [
        ("", 0, "over"),
        ("None", 0, "over"),
        ("256", 0, "over"),
        ("3", 3, "script.py ended with exit code 3 (script.py:2)"),
        ("-1", 255, "script.py ended with exit code 255 (script.py:2)"),
        ("'no luck'", 1, "script.py ended with exit code 1: no luck (script.py:2)"),
    ],
)
def test_an_exit_code(tmp_path: Path, said: str, number: int, words: str) -> None:
    assert run(tmp_path, f"import sys\nsys.exit({said})\n") == (number, f"{words}\n")


def test_threads_come_to_their_end_first(tmp_path: Path) -> None:
    """Also those of a pool that nobody has closed: Python ends those, too."""
    code = (
        "import threading\nfrom concurrent.futures import ThreadPoolExecutor\ngo = threading.Event()\n"
        "pool = ThreadPoolExecutor(1)\npool.submit(print, 'pool', flush=True).result()\n"
        "threading.Thread(target=lambda: (go.wait(), print('thread'))).start()\n"
        "threading.Timer(0.2, go.set).start()\nprint('main')\n"
    )
    assert run(tmp_path, code) == (0, "pool\nmain\nthread\nover\n")


def test_a_traceback_shows_the_lines_that_were_submitted(tmp_path: Path) -> None:
    _, said = run(tmp_path, "def divide():\n    return 1 / 0  # as submitted\ndivide()\n", later="# changed\n" * 3)
    assert f'File "{tmp_path}/script.py", line 2, in divide\n    return 1 / 0  # as submitted\n' in said
    assert said.endswith("ZeroDivisionError: division by zero\nscript.py:2\nover\n")


@pytest.mark.parametrize(("later", "name"), [(None, "script.py"), ("raise SystemExit(1)\n", "copy.py")])
def test_processes_that_it_spawns_run_what_was_submitted(tmp_path: Path, later: str | None, name: str) -> None:
    assert run(tmp_path, SPAWN, later) == (0, f"{tmp_path}/{name}\nover\n")


@pytest.mark.parametrize(
    ("end", "number"), [("pass", 0), ("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('words')", 1), ("1 / 0", 1)]
)
def test_a_process_that_it_forks_ends_where_the_script_does(tmp_path: Path, end: str, number: int) -> None:
    """And its parent alone is the rank."""
    code = (
        "import atexit, os, sys\natexit.register(print, 'exit of', os.getpid())\nchild = os.fork()\n"
        f"if child:\n    print('status', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\nelse:\n    {end}\n"
    )
    code_of_parent, said = run(tmp_path, code, errors=True)
    assert (code_of_parent, said.count("over"), said.count("exit of")) == (0, 1, 1), said
    assert f"status {number}\n" in said


def test_only_the_copy_that_was_submitted_is_run(tmp_path: Path) -> None:
    copy = tmp_path / "program.py"
    digest = hashlib.sha256(b"pass\n").hexdigest()
    with pytest.raises(RequestError, match=r"cannot read .*No such file.*: submit a new job"):
        read_copy(copy, digest)
    copy.write_text("pass\n")
    assert read_copy(copy, digest) == b"pass\n"
    copy.write_text("fail\n")
    with pytest.raises(RequestError, match="was changed since the job was submitted: submit a new job"):
        read_copy(copy, digest)
    copy.rename(tmp_path / "elsewhere.py")
    copy.symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(RequestError, match="must be a regular file, not a link"):
        read_copy(copy, digest)


def test_code_has_the_encoding_and_the_flags_that_it_says() -> None:
    """This file's own ``annotations`` must not come with it."""
    found: dict[str, object] = {}
    exec(compile_copy("# coding: latin-1\ndef f(x: int) -> None: ...\nsaid = 'é'\n".encode("latin-1"), "/x.py"), found)
    assert found["said"] == "é"
    assert found["f"].__annotations__ == {"x": int, "return": None}


def test_an_error_from_elsewhere_has_no_line() -> None:
    assert line_of(ValueError("x"), "/x.py") == ""
    with pytest.raises(SyntaxError, match=r"\(x\.py, line 2\)") as raised:
        compile_copy(b"x = 1\nif True\n", "/x.py")
    assert line_of(raised.value, "/x.py") == ""
