"""Which jobs' ranks share an import, who decides, and where torchrun's ranks then come from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.marks import needs_torch
from vllm_hpc.engine.startup import devices, fork_server, shared_import
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
def test_torchruns_ranks_are_the_servers_where_it_has_them(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose output torchrun writes to files of its own, or that the server cannot fork, are started anew."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    class Server:
        def rank(self, argv: tuple[str, ...], env: dict[str, str]) -> str | None:
            return "forked" if env else None

    class Handler:
        _stdout = _stderr = None

    monkeypatch.setattr(SubprocessHandler, "_popen", lambda *_: "started anew")
    monkeypatch.setattr(fork_server, "start", lambda ranks, work: Server() if ranks == 2 and work else None)
    monkeypatch.setattr(sys, "argv", ["/env/bin/torchrun"])
    monkeypatch.setenv(SHARED_IMPORT, "on")
    write_json(job.job_json, _plan(layout=crafted.layout(tp=2))(job.job()))
    assert shared_import.begin(job) is not None
    popen: Any = SubprocessHandler._popen
    handler = Handler()
    assert (popen(handler, ("python",), {"A": "b"}), popen(handler, ("python",), {})) == ("forked", "started anew")
    handler._stdout = object()  # type: ignore[assignment]
    assert popen(handler, ("python",), {"A": "b"}) == "started anew"
