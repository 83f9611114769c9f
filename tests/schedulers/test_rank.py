"""One rank as its script starts it: what it does before it runs what submitit has kept for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.in_script import rank


@pytest.mark.parametrize(("watched", "is_marked"), [("1", True), ("", False), (None, False)])
def test_it_marks_its_node_only_where_nodes_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: str | None, is_marked: bool
) -> None:
    left: list[int] = []
    folder = JobFolder(tmp_path)
    folder.joined(2, 1).parent.mkdir()
    monkeypatch.setattr(rank, "process_job", lambda ranks: None)
    monkeypatch.setenv("VLLM_HPC_JOB_ID", "4711")
    monkeypatch.delenv("SUBMITIT_FOLDER", raising=False)
    for name, value in {"VLLM_HPC_ATTEMPT": "2", "GROUP_RANK": "1", "VLLM_HPC_WATCHED": watched}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank, "leave", left.append)
    rank.main([str(tmp_path)])
    assert left == [0]
    assert folder.joined(2, 1).exists() == is_marked


# What is left running or registered when a rank's outcome is on record, by what it did to the exit code.
LEFTOVERS = {
    "a destructor of a library aborts": "ctypes.CDLL(None).on_exit(ctypes.CDLL(None).abort, None)",
    "an object aborts when its module is taken down": """
class Held:
    def __del__(self, abort=os.abort):
        abort()
sys.held = Held()
""",
    "a thread does not end": "threading.Thread(target=threading.Event().wait).start()",
    "an exit handler raises": "atexit.register(lambda: 1 / 0)",
}
RANK = """
import atexit, ctypes, os, sys, threading
from vllm_hpc.schedulers.in_script import rank

def process_job(ranks):
    print("the last row", end="")
    print("its log", end="", file=sys.stderr)
    atexit.register(lambda: open("handled", "w").close())
    {leftover}
    {ending}

rank.process_job = process_job
rank.main([sys.argv[1]])
"""


@pytest.mark.parametrize("ending", ["pass", "raise RuntimeError('the disk is full')"], ids=["done", "failed"])
@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_what_it_leaves_behind_does_not_change_its_exit_code(tmp_path: Path, leftover: str, ending: str) -> None:
    """As where a thread of torch lets go of a tensor while the interpreter ends: all rows were there, and exit -6."""
    code = RANK.format(leftover=LEFTOVERS[leftover].replace("\n", "\n    "), ending=ending)
    argv = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "VLLM_HPC_JOB_ID": "4711", "TMPDIR": str(tmp_path)}
    ran = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0 if ending == "pass" else 1, "the last row")
    assert ran.stderr.startswith("its log")
    assert ("RuntimeError: the disk is full" in ran.stderr) == (ending != "pass")
    assert (tmp_path / "handled").exists()  # what packages do at exit is done
