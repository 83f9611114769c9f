"""The PBS script without PBS: a pbsdsh and a torchrun of the test's let its own behaviour be seen."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.brisk import brisk, whole
from tests.real_jobs import wait_for
from tests.schedulers.setup_names import spoil_names
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.submit import submit

# As PBS's: a bare environment, the home folder, the job's log, a session of the task's own, 0 whatever that did, no
# waiting for it at TERM.
PBSDSH = """
if [ "$1" != -n ] || [ "$3" != -- ]; then exit 9; fi
echo "$2" >> {desk}/places
shift 3
cd /; setsid env -i HOME=/ PATH=/bin:/usr/bin PBS_JOBID=12.head OMP_NUM_THREADS=64 "$@" &
trap 'kill -TERM $!; exit 1' TERM
wait
exit 0
"""
# Which of a task's words is the file.
FILE = 'for file; do case "$file" in */state/.run-1*) break ;; esac; done'
IDLE = "for _ in {1..90}; do sleep 0.2; done"
# The second host fails, once the first can hear of it: then that ends with 3.
LISTENS = f"""trap 'exit 3' TERM; : > "$VLLM_HPC_FOLDER/listens"; {IDLE}"""
FAILS = 'if [ "$node" = 1 ]; then until [ -e "$VLLM_HPC_FOLDER/listens" ]; do sleep 0.1; done; {}; fi; '
pytestmark = pytest.mark.timeout(120)
# The script's Python is also what starts torchrun.
TORCHRUN = '[ "$3" != torch.distributed.run ] || exec torchrun "$@"'


class Ran(NamedTuple):
    """What a script left behind: its exit code, words and record, what python was asked, and the node's variables."""

    code: int
    err: str
    cause: str
    asked: list[str]
    places: list[str]
    seen: dict[str, str]
    folder: JobFolder


Run = Callable[..., Ran]


@pytest.fixture
def run(desk: Path, model: Path) -> Run:
    """Run the script of a job; ``work`` is what torchrun does on each host, with the host's number in $node."""

    def script(
        work: str = "", hosts: str = "n1 n2", decide: str = "exit 1", pbsdsh: str = PBSDSH, nodes: int = 2,
        edit: tuple[str, str] = ("", ""), env: dict[str, str] | None = None, task: int | None = None, **options: Any,
    ) -> Ran:  # fmt: skip
        job_id = f"12{'[]' if 'array' in options else ''}.head"
        client(desk, "qsub", f'[ "$1" = --version ] && echo pbs_version = 23 || echo {job_id}')
        job = submit(str(model), scheduler="pbs", nodes=nodes, job_dir="runs", **{"name": "job", **options})
        real = 'exec /usr/bin/env PYTHONPATH="$REAL" "$PYTHON" "$@"'
        port = f'case "$4" in rendezvous) echo 29500; exit;; export) {real};; esac\n{TORCHRUN}'
        client(desk, "python", f'{port}\necho "$3 $4 ${{@: -2}}" >> {desk}/asked\n{decide}')
        client(desk, "pbsdsh", pbsdsh.format(desk=desk))
        hosts_ = " ".join(dict.fromkeys(hosts.split()))
        client(desk, "pbs_tmrsh", f'i=0; for h in {hosts_}; do [ $h = $1 ] && break; i=$((i+1)); done; shift\n'
               'exec pbsdsh -n $i -- "$@"')  # fmt: skip
        client(desk, "torchrun", f'[[ "$*" =~ --rdzv-conf=rank=([0-9]+) ]]; node=${{BASH_REMATCH[1]}}\n'
               f'env -0 > {desk}/seen-$node; pwd > {desk}/cwd\n{work}')  # fmt: skip
        text = whole((job.path / "script.pbs").read_text())
        code = text.replace(f"PATH={Path(sys.executable).parent}:", f"PATH={desk}/bin:")
        assert code != text
        assert edit[0] in code
        (desk / "nodefile").write_text("".join(f"{host}\n" for host in hosts.split()))
        variables = {
            "PBS_JOBID": "12.head", "PBS_NODEFILE": str(desk / "nodefile"), "PBS_O_PATH": "/nowhere", "REAL": REAL,
            "PBS_O_WORKDIR": str(desk), "PYTHON": PYTHON, "PBS_ARRAY_ID": "12[].head",
            "PBS_ARRAY_INDEX": str(task or 0),
            **(env or {}),
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "-c", brisk(code.replace(*edit))], env={**os.environ, **variables}, cwd="/",
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, timeout=60,
        )  # fmt: skip
        record = json.loads((job.path / "state" / "exit-1.json").read_text())
        assert record["exit_code"] == done.returncode
        assert not list((job.path / "state").glob(".run-*"))
        seen = desk / "seen-1"
        values = dict(one.split("=", 1) for one in seen.read_text().split("\0")[:-1]) if seen.exists() else {}
        asked, places = (
            (desk / name).read_text().splitlines() if (desk / name).exists() else [] for name in ("asked", "places")
        )
        return Ran(done.returncode, done.stderr, record["cause"], asked, sorted(places), values, job.folder)

    return script


REAL = str(Path(__file__).parents[2])
PYTHON = os.path.realpath("/proc/self/exe")


def client(desk: Path, name: str, code: str) -> None:
    path = desk / "bin" / name
    path.write_text(f"#!/bin/bash\n{code}\n")
    path.chmod(0o755)


def test_every_host_finds_the_same_environment_and_folder(run: Run, desk: Path) -> None:
    odd = 'it\'s "b" $HOME `id` \\ é'
    ran = run(
        env={"NCCL_X": odd, "HF_TOKEN": "hunter2", "TMPDIR": "/tmp/of-the-first", "CUDA_VISIBLE_DEVICES": "GPU-1"}
    )
    assert (ran.code, ran.err) == (0, "")
    assert ran.seen["NCCL_X"] == odd
    assert ran.seen["VLLM_HPC_HEAD"] == "n1"
    assert (ran.seen["VLLM_HPC_JOB_ID"], ran.seen["VLLM_HPC_ATTEMPT"]) == ("12.head", "1")
    assert not {"HF_TOKEN", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"} & set(ran.seen)
    assert Path((desk / "cwd").read_text().strip()) == desk
    assert not [file for file in ran.folder.path.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]


def test_the_setup_may_use_any_plain_name(run: Run, desk: Path) -> None:
    precious = desk / "precious"
    precious.touch()
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\nsetup = ['{spoil_names(precious)}']\n")
    ran = run(profile="p", env={"VLLM_HPC_JOIN_TIMEOUT": "3"})
    assert (ran.code, ran.err, ran.cause, ran.places) == (0, "", "exit", ["0", "1"])
    assert precious.exists()


def test_a_setup_that_fails_has_changed_nothing_that_is_told_at_the_end(run: Run, desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\nsetup = ['{spoil_names(desk / 'x')}', 'false']\n")
    ran = run(profile="p", **ARRAY)
    assert (ran.code, ran.asked) == (1, ["vllm_hpc.in_job resubmit 1 over"])


def test_what_the_hosts_read_is_only_its_owners(run: Run, desk: Path) -> None:
    ran = run(pbsdsh=PBSDSH.replace("shift 3", f'{FILE}; stat -c %a "$file" > {{desk}}/mode; shift 3'))
    assert (ran.code, (desk / "mode").read_text()) == (0, "600\n")


# The second host's file is another's by the time it is read. A member of the project's group can do that.
REPLACES = f"""{FILE}
if [ "$2" = 1 ]; then until [ -e "${{{{file%/*}}}}/joined-1-0" ]; do sleep 0.1; done; HOW; fi; shift 3"""
PLANTED = 'echo "touch {desk}/planted" > "$file.new"; mv -f "$file.new" "$file"'


@pytest.mark.trust
@pytest.mark.parametrize("launcher", ["pbsdsh", "pbs_tmrsh"])
@pytest.mark.parametrize(
    "how", [PLANTED, 'rm -f "$file"', 'ln -sf /dev/zero "$file"'], ids=["replaced", "removed", "endless"]
)
def test_a_host_runs_only_what_the_script_wrote(run: Run, desk: Path, launcher: str, how: str) -> None:
    ran = run(LISTENS, pbsdsh=PBSDSH.replace("shift 3", REPLACES.replace("HOW", how)), launcher=launcher)
    assert ran.code == 3
    assert not (desk / "planted").exists()
    assert not ran.seen
    said = r"vllm-hpc: \S+ ran nothing: \S*/state/\.run-1-\w+ cannot be read, or is not what the job wrote: .*"
    assert re.fullmatch(said, ran.err.splitlines()[0])
    assert (ran.folder.path / "state" / "node-1-1").read_text() == "1\n"


def test_the_words_of_a_task_survive_any_launcher(run: Run, desk: Path) -> None:
    """They have no end of line and no backslash, whatever the folder is called."""
    words = PBSDSH.replace("shift 3", "shift 3; printf '%s\\0' \"$@\" > {desk}/words")
    ran = run(pbsdsh=words, name="naive $(id) #2 50% 'q' \"d\" `x` & job")
    assert (ran.code, ran.err) == (0, "")
    told = (desk / "words").read_text()
    assert "naive $(id) #2" in told
    assert not {"\n", "\\"} & set(told)


def test_a_shell_may_read_the_words_once_more(run: Run) -> None:
    """As ssh's does: docs/templates.md says how a site's launch block then writes them."""
    ran = run(
        edit=('"${task[@]}" "$node" &', '"${task[*]@Q} $node" &'),
        pbsdsh=PBSDSH.replace('"$@" &', 'bash -c "$*" &'), name="naive $(id) #2 'q' & job",
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    assert ran.seen


@pytest.mark.parametrize(
    ("hosts", "places"), [("n1 n2", ["0", "1"]), ("n1 n1 n1 n2 n2 n2", ["0", "3"]), ("n1 n10", ["0", "1"])]
)
def test_a_host_is_reached_by_its_first_slot(run: Run, hosts: str, places: list[str]) -> None:
    assert run(hosts=hosts).places == places


@pytest.mark.parametrize("hosts", ["n1", "n1 n1", "n1 n2 n3", ""])
def test_another_number_of_hosts_than_asked_ends_the_job(run: Run, hosts: str) -> None:
    ran = run(hosts=hosts)
    assert (ran.code, ran.places) == (1, [])
    assert "vllm-hpc: PBS gave these nodes, and not 2 as asked for: " in ran.err


def test_hosts_are_not_left_without_their_environment(run: Run) -> None:
    ran = run(edit=("python -P -m vllm_hpc.in_job export", "false"))
    assert (ran.code, ran.places) == (1, [])


def test_a_code_that_pbsdsh_hides_is_the_scripts(run: Run) -> None:
    ran = run('if [ "$node" = 1 ]; then exit 7; fi')
    assert ran.code == 7
    assert ran.asked == ["vllm_hpc.in_job requeue 1 7"]


def test_a_host_that_fails_takes_the_others_down(run: Run) -> None:
    ran = run(FAILS.format("exit 7") + LISTENS)
    assert ran.code == 3
    assert "within 30 s" not in ran.err


def test_what_the_hosts_read_is_gone_when_all_have_read_it(run: Run) -> None:
    """A script that is killed removes nothing."""
    gone = 'until [ ! -e "$(echo "$VLLM_HPC_FOLDER"/state/.run-1-*)" ]; do sleep 0.1; done'
    assert run(gone).code == 0


@pytest.mark.parametrize("launcher", ["pbsdsh", "pbs_tmrsh"])
def test_hosts_that_hear_no_signal_end_too(run: Run, launcher: str) -> None:
    """pbs_tmrsh dies of TERM, and its task hears nothing of it."""
    deaf = PBSDSH.replace("kill -TERM $!; exit 1", "exit 143")
    ran = run(FAILS.format("exit 7") + LISTENS, pbsdsh=deaf, launcher=launcher)
    assert ran.code == 3
    assert ran.asked == ["vllm_hpc.in_job requeue 1 3"]


# As an MPI's: one client starts all tasks, gives them the environment and a number, and has a signal passed on.
MPIEXEC = """
while [ "$1" != --hostfile ]; do shift; done
printf '%s ' "$2" $(cat "$2") >&2
shift 2
for rank in 0 1; do
  (cd /; PMI_RANK=$rank exec setsid "$@") &
done
{}
"""


@pytest.mark.parametrize("launcher", ["mpiexec", "openmpi"])
def test_an_mpi_that_dies_has_its_hosts_end(run: Run, desk: Path, launcher: str) -> None:
    """They hear nothing of it but by that file."""
    program = "mpirun" if launcher == "openmpi" else launcher
    up = '[ -e "$VLLM_HPC_FOLDER/state/joined-1-{}" ]'
    dies = f"until {up.format(0)} && {up.format(1)}; do sleep 0.1; done; exit 9"
    client(desk, program, MPIEXEC.format(dies))
    ran = run(f"trap 'exit 3' TERM; {IDLE}", launcher=launcher)
    assert ran.code == 3
    assert {path.name for path in ran.folder.path.glob("state/*-1*")} >= {"failed-1", "left-1-0"}


def test_an_mpi_that_ends_well_has_not_failed(run: Run, desk: Path) -> None:
    client(desk, "mpiexec", MPIEXEC.format("wait"))
    ran = run(launcher="mpiexec")
    assert ran.code == 0
    hosts, *names = ran.err.split()
    assert names == ["n1", "n2"]
    assert hosts.startswith("/tmp/vllm-hpc-hosts-12.head-1-"), "not where a project's group can name other hosts"
    assert not Path(hosts).exists()
    assert not (ran.folder.path / "state" / "failed-1").exists()


def test_a_task_that_ends_without_a_word_has_failed(run: Run) -> None:
    """As when all of it was killed, or PBS could not start it."""
    ran = run(FAILS.format("kill -KILL $PPID; exit") + LISTENS, edit=("i < 40", "i < 5"))
    assert ran.code == 3
    assert (ran.folder.path / "state" / "failed-1").exists()


def test_a_pbsdsh_that_starts_nothing_is_a_failure(run: Run) -> None:
    assert run(pbsdsh="exit 0").code == 1


def test_a_pbsdsh_that_does_not_come_back_is_not_waited_for(run: Run) -> None:
    ran = run(pbsdsh=PBSDSH.replace("exit 0", "exec sleep 50 2> /dev/null"), edit=("-ge 30 ]", "-ge 1 ]"))
    assert ran.code == 0
    assert "vllm-hpc: every node has ended, and pbsdsh did not end within 30 s" in ran.err


def test_a_host_that_does_not_join_is_named(run: Run) -> None:
    hang = PBSDSH.replace("shift 3", 'if [ "$2" = 1 ]; then exec sleep 50; fi; shift 3')
    ran = run("trap 'exit 3' TERM; " + IDLE, pbsdsh=hang, env={"VLLM_HPC_JOIN_TIMEOUT": "3"})
    assert ran.code == 3
    assert "vllm-hpc: not joined within 3 s: n2" in ran.err


def test_the_script_is_its_own_timer(run: Run) -> None:
    wait = 'while [ ! -e "$VLLM_HPC_FOLDER/control/drain-1" ]; do sleep 0.1; done'
    ran = run(wait, time="2", drain_lead=118, decide="exit 0")
    assert (ran.code, ran.cause) == (0, "requeue")
    assert "draining: the walltime will be over in 118 s" in ran.err
    assert ran.asked == ["vllm_hpc.in_job requeue 1 0", "vllm_hpc.in_job resubmit 1 again"]


def test_a_script_that_cannot_be_submitted_again_says_so(run: Run) -> None:
    ran = run(decide='if [ "$4" = resubmit ]; then exit 1; fi', time="2")
    assert (ran.code, ran.cause) == (0, "exit")
    assert "the scheduler does not run it again: 'vllm-hpc resume' does" in ran.err


def test_qdel_reaches_every_host(run: Run, desk: Path) -> None:
    told = f"trap 'echo $node >> {desk}/told; exit 143' TERM; : > {desk}/listens-$node"
    both = f"until [ -e {desk}/listens-1 ]; do sleep 0.1; done"
    ran = run(f'{told}; if [ $node = 0 ]; then {both}; kill -TERM "$(cat {desk}/pid)"; fi; {IDLE}',
              edit=("set -uo pipefail", f"set -uo pipefail; echo $$ > {desk}/pid"))  # fmt: skip
    assert (ran.code, ran.cause) == (143, "TERM")
    told_to = desk / "told"
    wait_for(lambda: told_to.exists() and sorted(told_to.read_text().split()) == ["0", "1"], "both have heard it", 20)
    assert ran.asked == []


ARRAY: dict[str, Any] = {"nodes": 1, "hosts": "n1", "dp": 2, "array": True, "task": 1}


def test_a_task_of_an_array_notes_its_end(run: Run) -> None:
    ran = run(**ARRAY)
    assert ran.asked == ["vllm_hpc.in_job requeue 1 0", "vllm_hpc.in_job resubmit 1 over"]
    attempt = ran.folder.attempts()[0]
    assert (attempt.task, attempt.job_id) == (1, "12[].head_1")


def test_a_task_of_an_array_notes_an_end_before_its_work_has_begun(run: Run) -> None:
    """Else the others' next attempt would wait for it in vain."""
    ran = run(**{**ARRAY, "hosts": "n1 n2"})
    assert (ran.code, ran.asked) == (1, ["vllm_hpc.in_job resubmit 1 over"])


def test_a_task_of_an_array_that_a_signal_ends_has_not_ended_for_good(run: Run, desk: Path) -> None:
    """Deleted, no other is to submit the array again; preempted, PBS runs it again by itself."""
    ran = run(f'trap "exit 143" TERM; kill -TERM "$(cat {desk}/pid)"; {IDLE}', **ARRAY,
              edit=("set -uo pipefail", f"set -uo pipefail; echo $$ > {desk}/pid"))  # fmt: skip
    assert (ran.code, ran.cause, ran.asked) == (143, "TERM", [])
