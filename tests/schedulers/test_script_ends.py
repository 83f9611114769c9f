"""How a script ends: drained, asked to run again, cancelled at an awkward moment. Its programs are stand-ins."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.brisk import brisk, whole
from tests.real_jobs import wait_for
from vllm_hpc.jobs.submit import prepare, submit

# To the script, as the scheduler sends them; the launcher is a grandchild of its.
USR2 = "kill -USR2 $SCRIPT; "
TERM = "kill -TERM $SCRIPT; "
pytestmark = pytest.mark.timeout(120)
# The script's Python is also what starts torchrun.
TORCHRUN = '[ "$3" != torch.distributed.run ] || exec torchrun "$@"'


class Ended(NamedTuple):
    """What a script left behind: its exit code and words, its exit record, and what it asked of whom."""

    code: int
    err: str
    record: dict[str, Any]
    asked: list[str]
    drained: bool
    text: str


Run = Callable[..., Ended]


@pytest.fixture
def run(desk: Path, model: Path) -> Run:
    """Run a rendered script: ``work`` is what its ranks do, ``decide`` whether it runs again, ``again`` scontrol
    requeue."""

    def script(
        work: str = "", decide: str = "exit 0", again: str = "exit 0", scheduler: str = "slurm",
        edit: tuple[str, str] = ("", ""), is_cancelled: bool = False, **options: Any,
    ) -> Ended:  # fmt: skip
        text = prepare(str(model), scheduler=scheduler, job_dir="runs", name="job", **options).script
        job = submit(str(model), scheduler="slurm", job_dir="runs", name="job", **options)
        if is_cancelled:
            job.folder.cancelled.touch()
        port = f'if [ "$4" = rendezvous ]; then echo 29500; exit; fi\n{TORCHRUN}'
        client(desk, "python", f"{port}\n{said(desk)}\n{decide}")
        client(desk, "scontrol", f'if [ "$1" = show ]; then echo node1; exit; fi\n{said(desk)}\n{again}')
        joined = ': > "$VLLM_HPC_FOLDER/state/joined-$VLLM_HPC_ATTEMPT-0"\n'
        for name in ("srun", "torchrun"):
            client(desk, name, joined + work)
        code = re.sub(r'export PATH=\S+:"\$PATH"', ":", whole(text))  # else it would find the real ones
        assert code != whole(text)
        assert edit[0] in code
        variables = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node1", "VLLM_HPC_JOB_ID": "1-1"}
        done = subprocess.run(
            ["bash", "-c", "export SCRIPT=$$\n" + brisk(code.replace(*edit, 1))],
            env={**os.environ, **variables}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, timeout=60,
        )  # fmt: skip
        kept = job.path / "state" / "exit-1.json"
        record = json.loads(kept.read_text()) if kept.exists() else {}
        assert not list((job.path / "state").glob(".*")), "a draft was left"
        asked = (desk / "asked").read_text().splitlines() if (desk / "asked").exists() else []
        return Ended(done.returncode, done.stderr, record, asked, job.folder.drain_attempt(1).exists(), text)

    return script


def client(desk: Path, name: str, code: str) -> None:
    path = desk / "bin" / name
    path.write_text(f"#!/bin/bash\n{code}\n")
    path.chmod(0o755)


def said(desk: Path) -> str:
    return f'echo "$(basename "$0") $*" >> {desk}/asked'


def end(ended: Ended) -> tuple[int, str, bool]:
    assert ended.record["exit_code"] == ended.code
    return ended.code, ended.record["cause"], "scontrol requeue 4711" in ended.asked


def test_a_drain_lets_the_work_end_and_has_the_job_requeued(run: Run) -> None:
    ended = run(f'{USR2}while [ ! -e "$VLLM_HPC_FOLDER/control/drain-1" ]; do sleep 0.1; done')
    assert end(ended) == (0, "requeue", True)
    assert ended.drained
    assert re.fullmatch(r"python -P -m vllm_hpc\.in_job requeue \S+ 1 0", ended.asked[0])
    assert "--requeue" in ended.text


def test_a_script_of_a_job_that_was_cancelled_while_it_was_submitted_ends_as_it_starts(run: Run) -> None:
    """Whoever cancelled it could not know its id, and the scheduler has it all the same."""
    ended = run("echo works >&2", is_cancelled=True)
    assert end(ended) == (1, "cancelled", False)
    assert "works" not in ended.err
    assert "vllm-hpc: it was cancelled while it was submitted" in ended.err


def test_what_ranks_leave_behind_is_removed(run: Run, tmp_path: Path) -> None:
    """torchrun's folder, and what a rank that was killed could not remove."""
    ended = run(
        f'mkdir "$PET_LOG_DIR/torchelastic_1"; echo "$VLLM_HPC_SCRATCH" > {tmp_path}/scratch', scheduler="local"
    )
    assert ended.code == 0, ended.err
    scratch = Path((tmp_path / "scratch").read_text().strip())
    wait_for(lambda: not scratch.exists(), "end of what watches the ranks")


def test_the_code_of_the_work_is_told_and_kept(run: Run) -> None:
    ended = run("exit 7")
    assert end(ended) == (7, "requeue", True)
    assert ended.asked[0].endswith(" 1 7")


def test_who_decides_against_it_has_the_script_end(run: Run) -> None:
    assert end(run("exit 7", decide="exit 1")) == (7, "exit", False)


def test_a_scheduler_that_does_not_requeue_is_not_waited_for(run: Run) -> None:
    ended = run(again="echo 'Requested operation is presently disabled' >&2; exit 1")
    assert end(ended) == (0, "exit", True)
    assert "the scheduler does not run it again: 'vllm-hpc resume' does" in ended.err


def test_without_requeues_nobody_is_asked(run: Run) -> None:
    ended = run("exit 7", max_requeues=0)
    assert (end(ended), ended.asked) == ((7, "exit", False), [])
    assert "#SBATCH --no-requeue" in ended.text


def test_a_cancel_while_that_is_decided_has_the_last_word(run: Run) -> None:
    """Requeued, a cancelled job would come back."""
    assert end(run(decide=f"{TERM}sleep 0.2; exit 0")) == (0, "TERM", False)


def test_the_schedulers_own_term_after_it_was_asked_changes_nothing(run: Run) -> None:
    assert end(run(again=f"{TERM}{USR2}sleep 0.2; exit 0")) == (0, "requeue", True)


def test_a_term_while_it_works_is_no_reason_to_ask(run: Run) -> None:
    ended = run(f"{TERM}exec sleep 30")
    assert (end(ended), ended.asked) == ((143, "TERM", False), [])


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_usr2_before_the_attempt_has_its_number_is_kept(run: Run, scheduler: str) -> None:
    edit = ("\n  take_attempt\n", "\n  kill -USR2 $$; take_attempt\n")
    ended = run(edit=edit, scheduler=scheduler, decide="exit 1")
    assert (ended.code, ended.drained) == (0, True)


@pytest.mark.parametrize("code", [0, 7])
def test_usr2_as_the_work_ends_does_not_hide_its_code(run: Run, code: int) -> None:
    ended = run(
        f"sleep 0.2; {USR2}sleep 0.3; exit {code}",
        scheduler="local", decide="exit 1", edit=("drain_work() {", "drain_work() { sleep 1;"),
    )  # fmt: skip
    assert (end(ended), ended.drained) == ((code, "exit", False), True)


def test_a_second_usr2_does_no_harm(run: Run) -> None:
    assert end(run(f"{USR2}sleep 0.4; {USR2}sleep 0.4")) == (0, "requeue", True)


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_a_full_disk_leaves_no_empty_record(run: Run, scheduler: str) -> None:
    on_full = 'case "$1" in *ended_at*) builtin printf "$@" > /dev/full ;; *) builtin printf "$@" ;; esac'
    full = f"take_attempt\n  printf() {{ {on_full}; }}\n"
    ended = run("exit 7", decide="exit 1", scheduler=scheduler, edit=("take_attempt\n  trap", f"{full}  trap"))
    assert (ended.code, ended.record) == (7, {})
    assert "No space left on device" in ended.err
