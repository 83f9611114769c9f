"""lifecycle.sh by itself: its functions in a real bash, and the way in which a script comes by them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.brisk import brisk
from tests.real_jobs import require, wait_for
from vllm_hpc.jobfolder.folder import SUBFOLDERS
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.lifecycle import lifecycle_text

ROOT = Path(__file__).parents[2]
LIFECYCLE = ROOT / "templates" / "lifecycle.sh"
BEGIN = "lead_s=60 time_limit_s='' max_requeues=0 begin_attempt\n"
pytestmark = pytest.mark.timeout(60)


class Ran(NamedTuple):
    """What a piece of a script left behind."""

    code: int
    out: str
    err: str


class Shell:
    """A job folder, and a bash that has read lifecycle.sh for it."""

    edit = ("", "")

    def __init__(self, folder: Path) -> None:
        self.job = folder / "job"
        for name in SUBFOLDERS:
            (self.job / name).mkdir(parents=True)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.environment = {
            **os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "VLLM_HPC_JOB_ID": "12", "VLLM_HPC_TASK": "0",
        }  # fmt: skip

    def start(self, text: str) -> subprocess.Popen[str]:
        assert self.edit[0] in lifecycle_text()
        code = brisk(lifecycle_text()).replace(*self.edit)
        script = f"set -uo pipefail\njob={self.job}\n{code}\n{text}\n"
        return subprocess.Popen(
            ["bash", "-c", script], env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, text: str) -> Ran:
        process = self.start(text)
        out, err = process.communicate(timeout=40)
        return Ran(process.returncode, out, err)

    def program(self, name: str, code: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{code}\n")
        path.chmod(0o755)

    def record(self, attempt: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.job / "state" / f"exit-{attempt}.json").read_text())
        return found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize("command", [["bash", "-n"], ["shellcheck"]], ids=["bash", "shellcheck"])
def test_it_is_clean(command: list[str]) -> None:
    require(shutil.which(command[0]) is not None, f"not installed: {command[0]}")
    check = subprocess.run([*command, str(LIFECYCLE)], text=True, capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_it_writes_into_the_job_folder_in_one_place() -> None:
    """> follows links, which somebody else may have put there."""
    # A node that refuses its file has nothing of this: it makes its marks with set -C.
    text = re.sub(r"(?s)\n_vh_run_checked='.*?'\n", "", lifecycle_text())
    code = re.sub(r"(?m)^ *#.*|'[^'\n]*'", "", text)
    redirects = re.findall(r"(?<![0-9&<])>>? *(?!/dev/null|\(|&)\S+", code)
    assert [one for one in redirects if "$" in one] == ['> "$file")']


def test_it_is_only_functions_and_starts_nothing(shell: Shell) -> None:
    ran = shell.run(":")
    assert ran == (0, "", "")
    assert not list((shell.job / "attempts").iterdir())


# -- the ledger ------------------------------------------------------------------------------------------------------


def test_attempts_that_begin_at_once_get_a_number_each(shell: Shell) -> None:
    running = [shell.start(BEGIN + 'echo "$attempt"') for _ in range(8)]
    numbers = sorted(int(process.communicate(timeout=40)[0]) for process in running)
    assert numbers == list(range(1, 9))
    records = [json.loads((shell.job / "attempts" / f"{number}.json").read_text()) for number in numbers]
    assert [record["attempt"] for record in records] == numbers
    assert not list((shell.job / "attempts").glob(".*"))


def test_a_folder_that_cannot_be_written_is_said(shell: Shell) -> None:
    shutil.rmtree(shell.job / "attempts")
    ran = shell.run(BEGIN)
    assert ran.code == 1
    assert f"vllm-hpc: cannot write into {shell.job}/attempts: full, over quota, or not mounted here?" in ran.err


def test_others_who_can_write_are_said(shell: Shell) -> None:
    """Where chmod is not allowed: it does no harm if nobody else can write anyhow."""
    shell.program("chmod", 'echo "chmod: Operation not permitted" >&2; exit 1')
    assert shell.run(BEGIN).err == ""
    shell.program("find", "")  # none that others cannot write to
    ran = shell.run(BEGIN)
    said = (
        f"vllm-hpc: others can write to {shell.job}/attempts, and chmod cannot change that: choose another --job-dir\n"
    )
    assert (ran.code, ran.err) == (1, said)


@pytest.mark.parametrize("umask", ["000", "002", "077"])
def test_what_it_writes_is_not_for_others_to_change(shell: Shell, umask: str) -> None:
    shell.run(f"umask {umask}\n{BEGIN}kill -USR2 $$; hosts_file; exit 1")
    made = [file for name in ("attempts", "state", "control") for file in (shell.job / name).iterdir()]
    assert sorted(file.name for file in made) == ["1.json", "drain-1", "exit-1.json"]
    assert {oct(file.stat().st_mode & 0o777) for file in made} == {oct(0o644 & ~int(umask, 8))}


def test_the_ranks_find_the_job_and_the_attempt(shell: Shell) -> None:
    ran = shell.run(BEGIN + "env")
    assert {f"VLLM_HPC_FOLDER={shell.job}", "VLLM_HPC_ATTEMPT=1", "SUBMITIT_EXECUTOR=vllmhpc"} <= set(
        ran.out.splitlines()
    )


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "cause"),
    [
        ("exit 3", 3, "exit"),
        ("(exit 4)", 4, "exit"),
        ("kill -TERM $$; :", 143, "TERM"),
        ("kill -INT $$; :", 143, "INT"),
    ],
)
def test_every_end_is_on_record(shell: Shell, text: str, code: int, cause: str) -> None:
    assert shell.run(BEGIN + text).code == code
    assert (shell.record()["exit_code"], shell.record()["cause"]) == (code, cause)


def test_a_signal_after_the_time_limit_is_a_timeout(shell: Shell) -> None:
    shell.run(BEGIN.replace("time_limit_s=''", "time_limit_s=1") + "SECONDS=2; kill -TERM $$; :")
    assert shell.record()["cause"] == "timeout"


def test_tell_end_hears_of_an_end_and_not_of_a_signal(shell: Shell) -> None:
    tells = 'tell_end() { echo "told $_vh_cause"; }\n'
    assert shell.run(BEGIN + tells + "exit 3").out == "told exit\n"
    assert shell.run(BEGIN + tells + "kill -TERM $$; :").out == ""


# -- drains ----------------------------------------------------------------------------------------------------------


def test_usr2_drains(shell: Shell) -> None:
    ran = shell.run(BEGIN + "kill -USR2 $$; :")
    assert ran.err == "vllm-hpc: draining: the walltime will be over in 60 s\n"
    assert (shell.job / "control" / "drain-1").exists()


def test_a_timer_drains_where_no_signal_comes(shell: Shell) -> None:
    text = 'nodes=(n1); launch() { until [ -e "$job/control/drain-1" ]; do sleep 0.1; done; }\n'
    begin = BEGIN.replace("time_limit_s=''", "time_limit_s=61")
    assert shell.run(begin + "drain_by_timer\n" + text + "run_work x true").code == 0
    assert (shell.job / "control" / "drain-1").exists()


@pytest.mark.inputs
@pytest.mark.parametrize("end", ["exit 3", "kill -TERM $$; :", "launch() { :; }; nodes=(); run_work x true"])
def test_a_drain_marks_the_scripts_own_node_until_the_end(shell: Shell, end: str) -> None:
    """engine/loop/drain_watch.py looks for it."""
    job_id = f"mark-{os.getpid()}[].head_0"
    mark = Path(f"/tmp/vllm-hpc-drain-{job_id}-1")
    shell.environment["VLLM_HPC_JOB_ID"] = job_id
    shell.program("python", "exit 0")  # 'requeue': run it again
    begin = BEGIN.replace("max_requeues=0", "max_requeues=1")
    assert shell.run(f"{begin}drain_work; ls -d /tmp/vllm-hpc-drain-{job_id}-1; {end}").out.splitlines()[0] == str(mark)
    assert not mark.exists()
    assert not shell.run(f"{begin}{end}").err.count("rmdir")


# -- the set-up ------------------------------------------------------------------------------------------------------


def test_a_line_of_the_setup_that_fails_ends_the_job(shell: Shell, desk: Path, model: Path) -> None:
    lines = ["false || true", ": $unset_here", "ls /no-such-folder 2> /dev/null", "echo not here"]
    ran = shell.run(BEGIN + setup_of(desk, model, lines))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "vllm-hpc: this line of the profile's setup failed: ls /no-such-folder 2> /dev/null\n"


def test_after_the_setup_a_line_may_fail_and_variables_must_be_set(shell: Shell, desk: Path, model: Path) -> None:
    setup = setup_of(desk, model, [": $unset_here"])
    assert shell.run(f"{setup}\nfalse\necho on").out == "on\n"
    assert "unbound variable" in shell.run(f"{setup}\n: $unset_here").err


def setup_of(desk: Path, model: Path, lines: list[str]) -> str:
    """What a script does with these lines of a profile's setup."""
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\nsetup = {lines}\n")
    script = prepare(str(model), scheduler="slurm", profile="p").script
    return script.partition("; one that fails ends the job.\n")[2].partition("# The same Python")[0]


# -- nodes -----------------------------------------------------------------------------------------------------------


def test_nodes_of_slurm(shell: Shell) -> None:
    shell.program("scontrol", "echo a1; echo a2")
    shell.environment |= {"SLURM_JOB_NODELIST": "a[1-2]", "SLURM_CPUS_PER_TASK": "7", "SLURM_EXPORT_ENV": "NONE"}
    ran = shell.run('slurm_nodes; echo "${nodes[*]}"; env')
    said = ran.out.splitlines()
    assert said[0] == "a1 a2"
    assert {"SLURM_KILL_BAD_EXIT=1", "SRUN_CPUS_PER_TASK=7", "SLURM_EXPORT_ENV=ALL"} <= set(said)


def test_nodes_that_slurm_does_not_name_end_the_job(shell: Shell) -> None:
    shell.program("scontrol", "exit 1")
    shell.environment |= {"SLURM_JOB_NODELIST": "a[1-2]"}
    assert shell.run("slurm_nodes").err == "vllm-hpc: scontrol does not name the nodes of a[1-2]\n"


def test_nodes_of_pbs_are_reached_by_their_first_slot(shell: Shell) -> None:
    (shell.job / "nodefile").write_text("n1\nn1\nn10\nn1\nn2\nn2\n")
    shell.environment |= {"PBS_NODEFILE": str(shell.job / "nodefile")}
    assert shell.run('pbs_nodes 3; echo "${nodes[*]}: ${places[*]}"').out == "n1 n10 n2: 0 2 4\n"
    assert shell.run("pbs_nodes 2").err == "vllm-hpc: PBS gave these nodes, and not 2 as asked for: n1 n10 n2\n"


@pytest.mark.admins
@pytest.mark.parametrize(("names", "places"), [("g1 g2", "0 48"), ("g1 g1 g2 g2", "0 2")])
def test_on_gadi_a_node_has_a_slot_for_each_core(shell: Shell, names: str, places: str) -> None:
    (shell.job / "nodefile").write_text("\n".join([*names.split(), ""]))
    shell.environment |= {"PBS_NODEFILE": str(shell.job / "nodefile"), "PBS_NCI_NCPUS_PER_NODE": "48"}
    assert shell.run('pbs_nodes 2; echo "${nodes[*]}: ${places[*]}"').out == f"g1 g2: {places}\n"


HSN = ".hsn.cm.polaris.alcf.anl.gov"


@pytest.mark.admins
@pytest.mark.parametrize(
    ("name", "suffix", "full"),
    [
        ("x3004c0s1b0n0", HSN, f"x3004c0s1b0n0{HSN}"), (f"x3004c0s1b0n0{HSN}", HSN, f"x3004c0s1b0n0{HSN}"),
        ("x3004c0s1b0n0.cm.polaris.alcf.anl.gov", HSN, f"x3004c0s1b0n0{HSN}"),
        ("jwb0001", "i", "jwb0001i"), ("jwb0001.juwels", "i", "jwb0001i.juwels"), ("jwb0001i.juwels", "i",
        "jwb0001i.juwels"), ("jwb0001i", "i", "jwb0001i"),
        ("jpbo-001-01.jupiter.internal", "-interconnect-1.jupiter.internal",
         "jpbo-001-01-interconnect-1.jupiter.internal"),
        ("n1", "-ib", "n1-ib"), ("n1.a.b", "-ib", "n1-ib.a.b"), ("*", ".x", "*.x"), ("", ".x", ""),
    ],
)  # fmt: skip
def test_a_suffix_is_not_added_to_a_name_that_has_it(shell: Shell, name: str, suffix: str, full: str) -> None:
    ran = shell.run(f"add_suffix '{name}' '{suffix}'")
    assert (ran.code, ran.out, ran.err) == (0, f"{full}\n" if full else "", "")


def test_the_first_address_is_the_heads(shell: Shell) -> None:
    assert shell.run("take_head $'\\n 10.0.0.1 fe80::1\\n' x; echo \"$VLLM_HPC_HEAD\"").out == "10.0.0.1\n"
    ran = shell.run("take_head ' ' 'hostname -i'")
    assert (ran.code, ran.err) == (
        1,
        "vllm-hpc: the profile's head_command failed, or printed no address: hostname -i\n",
    )


# -- tasks -----------------------------------------------------------------------------------------------------------

RANKS = 'run_ranks() { exec env printf "%s\\n" "node $node" "$$"; }\n'


def test_a_task_marks_its_node_and_becomes_its_ranks(shell: Shell) -> None:
    """Becomes: a site's Slurm may signal the task alone, and not what it has started."""
    shell.environment |= {"THE_NODE": "3", "SLURMD_NODENAME": "a4"}
    ran = shell.run(
        BEGIN + RANKS + 'make_task \'$THE_NODE\'\n"${task[@]}" > "$_vh_job/out" & echo $!; wait; cat "$_vh_job/out"'
    )
    pid, joined, node, own = ran.out.splitlines()
    assert (joined, node, own) == ("vllm-hpc: a4 joined as node 3", "node 3", pid)
    assert (shell.job / "state" / "joined-1-3").exists()


def test_of_several_tasks_on_a_node_the_first_marks_it(shell: Shell) -> None:
    shell.environment |= {"SLURM_LOCALID": "1"}
    assert "joined" not in shell.run(BEGIN + RANKS + 'make_task 0\n"${task[@]}"').out
    assert not (shell.job / "state" / "joined-1-0").exists()


# -- the work --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launch", "code"),
    [
        ("exit 5", 5),
        ("return 5", 5),
        ("sleep 0.1; (exit 5)", 5),
        ("(sleep 0.1; exit 5) & sleep 0.2 &", 5),
        ("sleep 0.2 & sleep 0.1", 0),
        ("start_work bash -c 'exit 5'\nwait_for_work", 5),
        ("exec bash -c 'exit 5'", 5),
    ],
)
def test_the_code_of_what_was_launched_is_the_scripts(shell: Shell, launch: str, code: int) -> None:
    """However a site's block starts it."""
    assert shell.run(f"{BEGIN}launch() {{\n{launch}\n}}\nrun_work x true").code == code
    assert shell.record()["exit_code"] == code


@pytest.mark.parametrize("how", ["{}", "{}\ntrue", "{} &", "exec {}", "start_work {}\nwait_for_work"])
def test_term_reaches_the_launcher_however_it_was_started(shell: Shell, how: str) -> None:
    shell.program("launcher", f"trap 'echo told; exit 9' TERM; : > {shell.job}/up; while :; do sleep 0.1; done")
    process = shell.start(f"{BEGIN}launch() {{\n{how.format('launcher')}\n}}\nrun_work x true")
    wait_for(lambda: (shell.job / "up").exists(), "it runs", 30)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    # A start_work within launch hands on what its process group has heard already: twice, if the launcher is slow.
    assert set(out.splitlines()) == {"told"}
    assert shell.record()["cause"] == "TERM"


def test_what_is_launched_reads_nothing_of_the_scripts_input(shell: Shell) -> None:
    """PBS may hand a script to bash as its input."""
    text = f"{lifecycle_text()}\n{BEGIN}launch() {{ cat; }}\nrun_work x true\n"
    environment = {**shell.environment, "job": str(shell.job)}
    done = subprocess.run(["bash"], input=text, env=environment, text=True, capture_output=True, timeout=40)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_node_that_does_not_join_is_named(shell: Shell) -> None:
    shell.environment |= {"VLLM_HPC_JOIN_TIMEOUT": "1"}
    ran = shell.run(
        f'{BEGIN}nodes=(n1 n2)\nlaunch() {{ : > "$job/state/joined-1-0"; exec sleep 50; }}\nrun_work x true'
    )
    assert "vllm-hpc: not joined within 1 s: n2\n" in ran.err
    assert ran.code == 143


@pytest.mark.parametrize(("decides", "again"), [(0, "again\n"), (1, "")])
def test_it_runs_again_if_the_job_says_so(shell: Shell, decides: int, again: str) -> None:
    shell.program("python", f'echo "$*" >> {shell.job}/asked; exit {decides}')
    begin = BEGIN.replace("max_requeues=0", "max_requeues=3")
    ran = shell.run(f"{begin}launch() {{ return 7; }}\nrun_work x echo again")
    assert (ran.code, ran.out) == (7, again)
    assert (shell.job / "asked").read_text() == f"-P -m vllm_hpc.in_job requeue {shell.job} 1 7\n"
    assert shell.record()["cause"] == ("requeue" if again else "exit")


def test_a_job_that_must_not_run_again_asks_nobody(shell: Shell) -> None:
    shell.program("python", f"touch {shell.job}/asked")
    ran = shell.run(f"{BEGIN}launch() {{ return 7; }}\nrun_work x echo again")
    assert (ran.code, ran.out) == (7, "")
    assert ran.err == "vllm-hpc: not running again: --max-requeues is 0; continue with 'vllm-hpc resume'\n"
    assert not (shell.job / "asked").exists()
