"""Attempts on the local scheduler: a script that asks for it is run again, and the ledger stays straight."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from vllm_hpc import Job, submit
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.schedulers.local import supervisor, this_process
from vllm_hpc.spec.request import Request

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Submit a job with the script's own end, whose 'torchrun' is shell code of the test's."""
    crafted.lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(torchrun: str, **options: Any) -> Job:
        (tmp_path / "template" / "local.sh.j2").write_text(
            '{% extends "packaged/local.sh.j2" %}{% block rendezvous %}{% endblock %}{% block launch %}'
            "start_work bash -c " + f"{{{{ {torchrun!r}|sh }}}}" + "\nwait_for_work\n{% endblock %}"
        )
        return submit("model", sample=True, scheduler="local", template_dir="template", job_dir="runs", **options)

    return run


DRAIN_ONCE = ': > "$VLLM_HPC_FOLDER/control/drain-1"; sleep {}; echo "attempt $VLLM_HPC_ATTEMPT"; '


def test_a_script_that_asks_for_it_is_run_again(start: Callable[..., Job]) -> None:
    job = start(DRAIN_ONCE.format(0))
    status = job.wait(60)
    assert (status.attempts, job.folder.exit_of(1).cause, job.folder.exit_of(2).cause) == (2, "requeue", "exit")  # type: ignore[union-attr]
    assert "running again: the walltime was almost reached; 2 rows left" in job.logs()
    assert "not running again: it ended normally" in job.logs()


@pytest.mark.slow
def test_each_attempt_has_the_whole_walltime_and_hears_of_its_end(start: Callable[..., Job]) -> None:
    wait = 'while [ ! -e "$VLLM_HPC_FOLDER/control/drain-$VLLM_HPC_ATTEMPT" ]; do sleep 0.1; done'
    job = start(f"{DRAIN_ONCE.format(2)} {wait}", time="0:05")  # a lead of one second
    job.wait(60)
    attempts = job.folder.attempts()
    heard = job.folder.drain_attempt(2).stat().st_mtime - attempts[1].started_at
    assert len(attempts) == 2
    assert heard > 3


@pytest.fixture
def signals() -> Iterator[set[signal.Signals]]:
    wanted = {signal.SIGTERM, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    yield wanted
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.slow
def test_usr2_comes_ahead_of_the_walltime(
    tmp_path: Path, signals: set[signal.Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "parse_walltime", lambda _: 3)
    heard = tmp_path / "heard"
    code = f"trap 'touch {heard}' USR2; echo; while :; do sleep 0.1; done"
    script = subprocess.Popen(["bash", "-c", code], stdout=subprocess.PIPE)
    assert script.stdout and script.stdout.readline()
    began, at = time.monotonic(), time.time()
    cause = supervisor._wait(script, Request(model="m", time="0:10"), signals, lambda: False)  # 2 s lead
    script.kill()
    script.wait()
    assert (cause, time.monotonic() - began >= 3, 0.9 <= heard.stat().st_mtime - at < 2.9) == (
        "timeout",
        True,
        True,
    )


@pytest.mark.slow
def test_a_script_whose_ranks_have_left_has_a_moment_more_to_end_well(
    signals: set[signal.Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "parse_walltime", lambda _: 3)
    script = subprocess.Popen(["bash", "-c", "trap 'sleep 3; exit 0' USR2; echo; while :; do sleep 0.1; done"])
    assert supervisor._wait(script, Request(model="m", time="0:10"), signals, lambda: True) == "exit"
    assert script.wait() == 0


SUPERVISE = """
import os, signal, sys
from pathlib import Path
from vllm_hpc.schedulers.local import supervisor
from vllm_hpc.spec import prctl
from vllm_hpc.jobfolder.folder import JobFolder
job = JobFolder(Path(sys.argv[1]).parent)
wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
prctl.take_orphans()  # else what the script started outlives it, and the test waits
if sys.argv[2] == "cancel":
    os.kill(os.getpid(), signal.SIGTERM)  # it came after the attempt before, and is met now
print(supervisor._run_attempt(job, job.job(), ["bash", sys.argv[1]], "77-1000", wanted))
"""


def supervise(folder: JobFolder, script: str, *how: str) -> str:
    path = folder.path / "script.sh"
    path.write_text(script)
    argv = [sys.executable, "-c", SUPERVISE, str(path), *(how or ("",))]
    return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


@pytest.fixture
def second(tmp_path: Path) -> JobFolder:
    """A local job whose first attempt asked to be run again; its supervisor is gone."""
    folder = crafted.make_job(tmp_path / "job")
    crafted.start(folder)
    crafted.end(folder, 0, "requeue")
    write_json(folder.supervisor, {**this_json(), "pid": 2**22 - 1})
    return folder


def this_json() -> dict[str, object]:
    import msgspec

    found: dict[str, object] = msgspec.to_builtins(this_process("77-1000"))
    return found


def test_a_cancel_between_two_attempts(second: JobFolder) -> None:
    assert supervise(second, "sleep 100", "cancel") == "False"
    status = Job(second.path).status()
    assert (status.state, status.attempts) == ("CANCELLED", 2)


@pytest.mark.parametrize(
    ("script", "reason", "code"), [("kill -KILL $$", "SIGKILL", 137), ("exit 3", "exit code 3", 3)]
)
def test_a_script_that_ends_before_it_could_number_itself(
    second: JobFolder, script: str, reason: str, code: int
) -> None:
    assert supervise(second, script) == "False"
    ended = second.exit_of(2)
    assert ended is not None
    assert ended.exit_code == code
    status = Job(second.path).status()
    assert (status.state, status.attempts, reason in status.reason) == ("FAILED", 2, True)


def test_what_is_resumed_after_that_is_not_taken_for_it(second: JobFolder) -> None:
    """The number is used up: else the next script would find its own exit record there."""
    supervise(second, "kill -KILL $$")
    assert second.last_number() == 2
    write_json(second.submitted, Submitted("local", "78-1000", 0.0))
    write_json(second.supervisor, this_process("78-1000"))
    assert Job(second.path).status().state == "RUNNING"


def test_a_script_that_asks_and_is_cancelled_is_not_run_again(second: JobFolder) -> None:
    script = (
        f'trap \'exit 0\' TERM; echo \'{{"attempt": 2, "job_id": "77-1000", "host": "h", "started_at": 0}}\' '
        f"> {second.attempt(2)}; touch {second.path}/up; while :; do sleep 0.1; done"
    )
    crafted.end(second, 0, "requeue", attempt=2)
    assert supervise(second, script, "cancel") == "False"
    ended = second.exit_of(2)
    assert ended is not None and ended.cause == "cancelled"


@pytest.mark.parametrize("how", ["", "cancel"])
def test_a_supervisor_that_cannot_write_a_record_goes_on(second: JobFolder, how: str) -> None:
    (second.path / "state").rename(second.path / "elsewhere")  # for root, whom no mode keeps from writing
    path = second.path / "script.sh"
    path.write_text("sleep 0.1; exit 3")
    argv = [sys.executable, "-c", SUPERVISE, str(path), how]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ran.returncode, ran.stdout) == (0, "False\n"), ran.stderr
    said = [line for line in ran.stderr.splitlines() if line.startswith("vllm-hpc: cannot write ")]
    assert said and said == ran.stderr.splitlines()
    assert said[-1].endswith("exit-2.json: No such file or directory")


def test_ranks_have_left_when_all_of_this_attempt_ended_well(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job", shape=crafted.layout(tp=2))
    crafted.start(folder, 1)
    crafted.rank(folder, 0, "ok")
    crafted.rank(folder, 1, "ok")
    assert supervisor._has_left(folder, folder.job(), 0)
    assert not supervisor._has_left(folder, folder.job(), 1), "of the attempt before"
    crafted.rank(folder, 1, "running")
    assert not supervisor._has_left(folder, folder.job(), 0)
