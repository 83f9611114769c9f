"""A launch block of a site's own: which of its processes lifecycle.sh waits for, and how it ends them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.real_jobs import wait_for
from tests.schedulers.test_lifecycle import BEGIN, RANKS, Shell

pytestmark = pytest.mark.timeout(60)
JOINED = ': > "$job/state/joined-1-0"; '


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def is_over(process_id: Path) -> bool:
    """Whether the process whose id is in that file has ended."""
    try:
        return psutil.Process(int(process_id.read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# -- which are launchers ---------------------------------------------------------------------------------------------


def test_launchers_that_end_at_once_are_known_by_their_nodes(shell: Shell) -> None:
    """bash drops a job that has ended from its list: the others must not be taken for their neighbours."""
    nodes = "nodes=($(seq 100 115))\n_vh_node_file=$job/state/.run-1\n"
    one = 'echo 0 > "$job/state/node-1-$1"; : > "$job/state/joined-1-$1"; sleep "$2"'
    launch = f"""one() {{ if [ "$1" -eq 0 ]; then return 1; fi; {one}; }}
launch() {{
  for node in "${{!nodes[@]}}"; do
    one "$node" "$((node == 15 ? 2 : 1))" &
    started[node]=$!
  done
  sleep 0.2; :
}}
note_left() {{ echo "left $*"; }}
"""
    ran = shell.run(f"{BEGIN}{nodes}{launch}run_work x true")
    assert ran.code == 1
    said = ran.out.splitlines()
    assert said[0] == "left 0"
    assert said[-2] == "left 15"
    assert sorted(said[1:-2], key=lambda line: int(line.split()[1])) == [f"left {node}" for node in range(1, 15)]


def test_a_launcher_that_ends_at_once_does_not_hide_its_code(shell: Shell) -> None:
    launch = "launch() { (exit 5) & started+=($!); sleep 0.3 & started+=($!); sleep 0.2; ls / > /dev/null; }\n"
    assert shell.run(f"{BEGIN}{launch}run_work x true").code == 5


HELPER = 'bash -c \'echo $$ > "$0"; exec sleep 50\' "$job/helper" & until [ -s "$job/helper" ]; do sleep 0.1; done\n'


@pytest.mark.parametrize(
    ("nodes", "launcher", "code"),
    [
        ("nodes=(n1)", JOINED + 'true "${task[@]}"', 0),
        ("nodes=(n1)", JOINED + "(exit 7)", 7),
        ("nodes=(n1)", "(exit 7)", 7),
        ("nodes=(n1)", JOINED + "sleep 0.5 & started+=($!)", 0),
        ("nodes=()", "(exit 7)", 7),
    ],
    ids=["foreground", "it fails", "it fails before a node joins", "background", "this machine"],
)
def test_a_helper_does_not_outlive_the_launcher(shell: Shell, nodes: str, launcher: str, code: int) -> None:
    began = time.monotonic()
    ran = shell.run(f"{BEGIN}{nodes}\nlaunch() {{\n{HELPER}{launcher}\n}}\nrun_work x true")
    assert (ran.code, ran.err.count("within")) == (code, 0)
    wait_for(lambda: is_over(shell.job / "helper"), "the helper has ended", 10)
    assert time.monotonic() - began < 30, "not waited for"


def test_a_launcher_in_the_background_is_no_helper(shell: Shell) -> None:
    """Although its node has joined by the time that launch returns."""
    launcher = 'bash -c \': > "$job/state/joined-1-0"; sleep 1; exit 6\' "${task[@]}" &\n'
    ran = shell.run(f"{BEGIN}export job\nnodes=(n1)\nlaunch() {{\n{launcher}sleep 0.5\n}}\nrun_work x true")
    assert ran.code == 6


# -- TERM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["sleep 3", "bash -c 'trap \"exit 0\" TERM; sleep 2 & wait'", "sleep 3 & wait"])
def test_a_launcher_does_not_begin_after_term(shell: Shell, before: str) -> None:
    process = shell.start(f"{BEGIN}launch() {{\n: > $job/up\n{before}\n: > $job/begun\nsleep 4\n}}\nrun_work x true")
    wait_for((shell.job / "up").exists, "it is on its way", 30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not (shell.job / "begun").exists()
    assert shell.record()["cause"] == "TERM"


def test_term_as_the_work_starts_is_kept(shell: Shell) -> None:
    text = f"{BEGIN}launch() {{ : > $job/begun; sleep 4; }}\nrun_work x true"
    shell.edit = ("trap 'pending=INT' INT\n", "trap 'pending=INT' INT; kill -TERM $$\n")
    assert shell.run(text).code == 143
    assert not (shell.job / "begun").exists()
    assert shell.record()["cause"] == "TERM"


@pytest.mark.parametrize(("nodes", "watched"), [("n1 n2", "1"), ("", "")])
def test_ranks_hear_whether_nodes_are_watched(shell: Shell, nodes: str, watched: str) -> None:
    launch = "launch() { printenv VLLM_HPC_WATCHED; }"
    ran = shell.run(f"{BEGIN}export VLLM_HPC_WATCHED=of-the-submitter\nnodes=({nodes})\n{launch}\nrun_work x true")
    assert ran.out == f"{watched}\n"


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_a_task_of_a_line_per_node_finds_its_number_on_slurm_too(shell: Shell) -> None:
    ran = shell.run(BEGIN + RANKS + "make_task '$1'\n\"${task[@]}\" 7")
    assert "node 7" in ran.out.splitlines()
    assert (shell.job / "state" / "joined-1-7").exists()
