"""What is known of a program where it is submitted, read from its source: nothing of it is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.programs.find import find_program
from vllm_hpc.spec.programs.pickled import find_object

pytestmark = pytest.mark.programs

RUNS, ROWS, HOOKS = (True, False), (False, False), (False, True)


def facts(program: Program) -> tuple[bool, bool]:
    return program.drives_engine, program.needs_hooks


def test_a_working_directory_that_is_gone(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", gone)
    Path("p.py").write_text("def P(ctx): ...\n")
    finds: tuple[Callable[[], object], ...] = (
        lambda: find_program("mypkg.mod:P"),
        lambda: find_program(f"{desk}/p.py:P"),
        lambda: find_object(len),
    )
    for find in finds:
        with pytest.raises(RequestError, match="the working directory cannot be used: No such file"):
            find()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def P(ctx): ...", RUNS),
        ("def P(ctx, times=3, *, loud=False): ...", RUNS),
        ("def P(ctx): ...\nP.needs_hooks = True", (True, True)),
        ("class P:\n def run(self, ctx): ...", RUNS),
        ("class P:\n def setup(self, ctx): ...", ROWS),
        ("class P:\n def on_output(self, ctx, row): ...", ROWS),
        ("class P:\n def teardown(self, ctx): ...\n needs_hooks = True", HOOKS),
        ("class P:\n needs_hooks: bool = True\n def setup(self, ctx): ...", HOOKS),
        ("class P:\n needs_hooks: bool\n def setup(self, ctx): ...", ROWS),
        ("class P:\n run = None\n def setup(self, ctx): ...", ROWS),
        ("class P:\n def setup(self, ctx): ...\nP.needs_hooks = True", HOOKS),
        ("class P:\n run = lambda self, ctx: 1", RUNS),
        ("@dataclass\nclass P:\n a: int = 1\n b: ClassVar[int]\n def setup(self, ctx): ...", ROWS),
        ("class P:\n @staticmethod\n def setup(ctx): ...", ROWS),
        ("class P:\n @wrapped\n def setup(): ...", ROWS),  # whatever that makes of it
        ("class P:\n def __init__(self, name='x'): ...\n def setup(self, ctx): ...", ROWS),
        ("if 1:\n class P:\n  def setup(self, ctx): ...", ROWS),
        ("try:\n import fast\nexcept ImportError:\n def P(ctx): ...", RUNS),
        ("class A:\n needs_hooks = True\n def run(self, ctx): ...\nclass P(A): ...", (True, True)),
        ("class A:\n needs_hooks = True\n def run(self, ctx): ...\nclass P(A): needs_hooks = False", RUNS),
        ("class A:\n def run(s, ctx): ...\nclass B:\n run = None\n def setup(s, ctx): ...\nclass P(B, A): ...", ROWS),
        ("class A(object):\n def setup(self, ctx): ...\nP = A", ROWS),
        ("import abc\nclass P(abc.ABC):\n def setup(self, ctx): ...", ROWS),
        ("import nowhere\nclass P(nowhere.B):\n needs_hooks = True\n run = None\n def setup(self, ctx): ...", HOOKS),
        ("from neighbour import Base\nclass P(Base): ...", HOOKS),
        ("from neighbour import *\nclass P(Base): ...", HOOKS),
        ("import neighbour as n\nclass P(n.Base): ...", HOOKS),
        ("from neighbour import Base as P", HOOKS),
    ],
)  # fmt: skip
def test_a_program_in_a_file(desk: Path, source: str, expected: tuple[bool, bool]) -> None:
    Path("neighbour.py").write_text("raise SystemExit\nclass Base:\n needs_hooks = True\n def setup(self, ctx): ...\n")
    Path("p.py").write_text(f"raise SystemExit('it was run')\n{source}\n")
    found = find_program("p.py:P")
    assert facts(found.program) == expected
    assert (found.program.kind, found.program.source) == ("file", str(desk / "p.py"))
    assert found.content == Path("p.py").read_bytes()
    assert "neighbour" not in sys.modules


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class Q: ...", "has no class or function 'P': it has Q"),
        ("def Pp(ctx): ...", "has no class or function 'P': did you mean 'Pp'?"),
        ("P = make()", "has no class or function 'P'"),
        ("from nowhere import P", "has no class or function 'P'"),
        ("P = P2\nP2 = P", "has no class or function 'P'"),
        ("class P: ...", "p.py:1: P: it has none of setup(ctx), on_output(ctx, row), teardown(ctx) and run(ctx)"),
        ("def P(): ...", "p.py:1: P must be a function of one argument: def P(ctx)"),
        ("def P(a, b): ...", "p.py:1: P must be a function of one argument: def P(ctx)"),
        ("def P(ctx, *, must): ...", "p.py:1: P must be a function of one argument"),
        ("async def P(ctx): ...", "p.py:1: P must be a plain function, neither async nor a generator"),
        ("def P(ctx):\n yield", "p.py:1: P must be a plain function"),
        ("class P:\n async def run(self, ctx): ...", "P.run must be a plain method, neither async nor a generator"),
        ("class P:\n def on_output(self, ctx): ...", "P.on_output must take self, ctx, row: def on_output(self,"),
        ("class P:\n def setup(self): ...", "P.setup must take self, ctx: def setup(self, ctx)"),
        ("class P:\n @staticmethod\n def setup(self, ctx): ...", "P.setup must take ctx: def setup(ctx)"),
        ("class P:\n def __init__(self, a): ...\n def run(self, ctx): ...", "ranks call P() without arguments: give"),
        ("class P:\n def run(self, ctx): ...\n def on_output(self, ctx, row): ...", "it has run, which drives the"),
        ("class P:\n needs_hooks = A\n def run(self, ctx): ...", "needs_hooks must be True or False, written out"),
        ("class P:\n needs_hooks = 1\n def run(self, ctx): ...", "needs_hooks must be True or False, written out"),
        ("import nowhere\nclass P(nowhere.B):\n def run(self, ctx): ...", "its base nowhere.B is not found here: "),
        ("class P(Q):\n def run(self, ctx): ...\nclass Q(P): ...", "its base P is not found here"),
        ("from . import other\ndef P(ctx): ...", "p.py:1: a file that is run by itself has no relative imports"),
        ("class P:\n run = 5", "P.run must be a method: def run(self, ctx); or None"),
        ("class P:\n run = lambda: 1", "P.run must take self, ctx: def run(self, ctx)"),
        ("class P:\n @property\n def run(self): ...", "P.run must be a method, not a property: def run(self, ctx)"),
        ("class P:\n def __new__(cls, a): ...\n def run(self, ctx): ...", "give those of __new__ defaults"),
        ("@dataclass\nclass P:\n a: int\n def run(self, ctx): ...", "ranks call P() without arguments: give 'a' a d"),
        ("class A: ...\nP = A()", "line 2 assigns that name, so write it with class or def"),
        ("def P(ctx): ...\nP = None", "line 2 assigns that name, so write it with class or def"),
        ("from nowhere import P", "line 1 imports it from where it is not found: name the module that it is in"),
        ("def P(ctx): ...\nawait x", "p.py:2: no valid Python: 'await' outside function: correct it"),
        ("def P(ctx:", "p.py:1: no valid Python: '(' was never closed: correct it"),
    ],
)  # fmt: skip
def test_what_no_rank_could_run_is_refused(desk: Path, source: str, said: str) -> None:
    Path("p.py").write_text(source)
    with pytest.raises(RequestError) as refused:
        find_program("p.py:P")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def make_package(folder: Path) -> None:
    (folder / "mine" / "deep").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text("raise SystemExit\n")
    (folder / "mine" / "base.py").write_text("class Base:\n def run(self, ctx): ...\n")
    (folder / "mine" / "deep" / "mod.py").write_text("from ..base import Base\nclass P(Base): needs_hooks = True\n")


def test_a_module_here_is_found_without_its_packages(desk: Path) -> None:
    make_package(desk)
    found = find_program("mine.deep.mod:P")
    assert facts(found.program) == (True, True)
    assert (found.program.kind, found.program.source, found.program.folder) == ("module", "mine.deep.mod", str(desk))
    assert found.content is None and found.program.sha256 == ""
    assert "mine" not in sys.modules


def test_a_module_elsewhere_on_the_path(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path / "lib")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    assert find_program("mine.deep.mod:P").program.folder == str(tmp_path / "lib")
    (desk / "mine").mkdir()  # without an __init__.py, which Python passes over
    assert find_program("mine.deep.mod:P").program.folder == str(tmp_path / "lib")
    (desk / "mine" / "__init__.py").write_text("")
    with pytest.raises(RequestError, match=r"'mine' is both here and in '.*/lib/mine', which ranks would import"):
        find_program("mine.deep.mod:P")


def test_what_is_installed_needs_no_folder(desk: Path) -> None:
    found = find_program("textwrap:dedent")
    assert (found.program.folder, found.program.drives_engine) == ("", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be package.module:NAME or FILE.py:NAME"),
        ("mine", "must be package.module:NAME or FILE.py:NAME, of a class or a function, as mine:NAME"),
        ("mine.deep", "of a class or a function, as mine.deep:NAME"),
        ("mine.deep.Norms", "of a class or a function: did you mean mine.deep:Norms?"),
        ("p.py", "add its name, as p.py:NAME, or use --script p.py to run the file as it is"),
        ("p.py:", "'' is no name of one"),
        ("p.py:a.b", "'a.b' is no name of one"),
        ("p.py:class", "'class' is no name of one"),
        ("./p:P", "'./p' is no .py file"),
        (".mine:P", "'.mine' is no module's name"),
        ("nowhere:P", "no module 'nowhere' in the working directory, nor installed"),
        ("mine.nowhere:P", "no module 'mine.nowhere' in 'mine': correct it"),
        ("mine.deep:P", "module 'mine.deep' is a folder without an __init__.py"),
        ("sys:P", "module 'sys' has no Python source"),
        ("missing.py:P", "'missing.py' cannot be read: No such file or directory: name a Python file"),
    ],
)  # fmt: skip
def test_what_names_no_program_is_refused(desk: Path, text: str, said: str) -> None:
    make_package(desk)
    with pytest.raises(RequestError) as refused:
        find_program(text)
    assert said in str(refused.value)
    assert str(refused.value).startswith("--program")
