"""Which jobs' ranks share an import, who decides, and where torchrun's ranks then come from."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.marks import needs_torch
from vllm_hpc.engine.startup import devices, forked_ranks, shared_import
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.environment_variables import SHARED_IMPORT
from vllm_hpc.spec.program import Program

Change = Callable[[JobRecord], JobRecord]


def _request(**changes: Any) -> Change:
    return lambda job: msgspec.structs.replace(job, request=msgspec.structs.replace(job.request, **changes))


def _plan(**changes: Any) -> Change:
    return lambda job: msgspec.structs.replace(job, plan=msgspec.structs.replace(job.plan, **changes))


def _program(**fields: Any) -> Change:
    return lambda job: msgspec.structs.replace(job, program=Program(name="p", source="/p.py", **fields))


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return crafted.make_job(tmp_path / "job")


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        pytest.param(_request(), True, id="rows"),
        pytest.param(_program(kind="class"), True, id="a program beside the loop, which is loaded after the import"),
        pytest.param(_program(kind="script"), False, id="a script"),
        pytest.param(_program(kind="class", drives_engine=True), False, id="a program that drives the engine"),
        pytest.param(_request(rehearse=True), False, id="a rehearsal"),
        pytest.param(_plan(engine={"distributed_executor_backend": "mp"}), False, id="vLLM's own workers"),
    ],
)
def test_ranks_that_begin_with_the_import_share_it(job: JobFolder, change: Change, shares: bool) -> None:
    assert shared_import.imports_vllm_first(change(job.job())) is shares


@pytest.mark.parametrize("said", ["on", "off", "", "yes", "0", "On", "on\n"])
@pytest.mark.parametrize("has_gpus", [True, False])
def test_the_variable_decides(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], said: str, has_gpus: bool
) -> None:
    monkeypatch.setattr(devices, "has_gpus", lambda: has_gpus)
    wanted = {"on": True, "off": False}.get(said, not has_gpus)
    assert shared_import._is_wanted({SHARED_IMPORT: said}) is wanted
    told = capfd.readouterr().err
    is_said = said in ("on", "off", "")
    assert told == "" if is_said else (told.count("\n"), "must be on or off" in told) == (1, True)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (f"{sysconfig.get_path('stdlib')}/sitecustomize.py", True),  # Ubuntu's
        ("/home/me/sitecustomize.py", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize"])
def test_ranks_with_start_up_code_of_the_users_are_started_anew(
    monkeypatch: pytest.MonkeyPatch, name: str, file: str | None, wanted: bool
) -> None:
    """It may do something in each rank, by its number."""
    monkeypatch.setattr(devices, "has_gpus", lambda: False)
    monkeypatch.delitem(sys.modules, "sitecustomize", raising=False)
    monkeypatch.delitem(sys.modules, "usercustomize", raising=False)
    module = ModuleType(name)
    module.__file__ = file
    monkeypatch.setitem(sys.modules, name, module)
    assert shared_import._is_wanted({}) is wanted
    assert shared_import._is_wanted({SHARED_IMPORT: "on"})


@pytest.mark.parametrize(
    ("program", "is_torchrun"),
    [
        ("/env/bin/torchrun", True),
        ("/env/lib/python3.12/site-packages/torch/distributed/run.py", True),
        ("/home/me/run.py", False),
        ("/env/bin/pytest", False),
        ("", False),
    ],
)
def test_only_torchrun_itself_forks(monkeypatch: pytest.MonkeyPatch, program: str, is_torchrun: bool) -> None:
    """Another program that uses its agent may have threads by then."""
    monkeypatch.setattr(sys, "argv", [program])
    assert shared_import._is_torchrun() is is_torchrun


@pytest.mark.usefixtures("job")
def test_what_is_no_job_is_left_to_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/env/bin/torchrun"])
    (tmp_path / "job" / "job.json").write_text("{")
    assert shared_import.begin(JobFolder(tmp_path / "job")) is None
    assert shared_import.begin(JobFolder(tmp_path / "nothing")) is None


@needs_torch
@pytest.mark.parametrize("case", ["forked", "a file for its output", "another program", "the server cannot"])
def test_torchruns_ranks_are_the_servers_where_it_has_them(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    """Through torchrun's own class, which starts the others anew."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    class Ranks:
        is_closed = False

        def rank(self, argv: tuple[str, ...], env: dict[str, str]) -> forked_ranks.RankProcess | None:
            assert (argv[0], env["OWN"]) == (sys.executable, "1")
            return None if self.is_closed or case == "the server cannot" else forked_ranks.RankProcess(77)

        def close(self) -> None:
            self.is_closed = True

    ranks = Ranks()
    monkeypatch.setattr(SubprocessHandler, "_popen", lambda self, args, env: ("started anew", args[1:]))
    monkeypatch.setattr(forked_ranks, "start", lambda number, _: ranks if number == 2 else None)
    monkeypatch.setattr(sys, "argv", ["/env/bin/torchrun"])
    monkeypatch.setenv(SHARED_IMPORT, "on")
    write_json(job.job_json, _plan(layout=crafted.layout(tp=2))(job.job()))
    begun: Any = shared_import.begin(job)
    assert begun is ranks
    words = ("-u", "-m", "vllm_hpc.in_job", "doctor" if case == "another program" else "rank", "/folder")
    output = str(tmp_path / "out") if case == "a file for its output" else None
    found: Any = SubprocessHandler(sys.executable, words, {"OWN": "1"}, output, None, 0, None).proc
    assert isinstance(found, forked_ranks.RankProcess) == (case == "forked"), found
    if case != "forked":
        assert found == ("started anew", words)
    assert ranks.is_closed == (case in ("a file for its output", "another program"))
