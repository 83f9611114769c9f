"""A process that has imported once forks ranks: as torchrun would have started them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import ROOT

# A module that a rank runs, what it imports, and an agent that asks for ranks and prints how they ended.
RANK = """
import json, os, signal, socket, sys
import slow_import
from vllm_hpc.engine.startup.fork_server import shared_import
shared = shared_import()
print("a rank's own output")
sockets = [one for one in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{one}")
           and os.readlink(f"/proc/self/fd/{one}").startswith("socket:")]
found = {
    "argv": sys.argv[1:], "environment": dict(os.environ), "parent": os.getppid(), "leads": os.getsid(0) == os.getpid(),
    "imported": slow_import.by, "said": shared and shared.said, "seconds": shared and shared.seconds,
    "sockets": sockets, "main": __name__, "term": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
    "name": open("/proc/self/comm").read().strip(),
}
with open(sys.argv[2], "w") as file:
    json.dump(found, file)
if sys.argv[3] == "raise":
    raise ValueError("of the rank's own")
if sys.argv[3] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "wait":
    signal.pause()
sys.exit(int(sys.argv[3]))
"""
SLOW_IMPORT = 'import os\nby = os.getpid()\nprint("what the import says")\n'
AGENT = """
import json, os, signal, subprocess, sys, time
from vllm_hpc.engine.startup import fork_server

def work():
{work}

server = fork_server.start({ranks}, work)
def ask(*words, **environment):
    return server.rank([sys.executable, "-u", "-m", "a_rank", *words], {{"PATH": "/bin", **environment}})
{body}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a_rank.py").write_text(RANK)
    (tmp_path / "slow_import.py").write_text(SLOW_IMPORT)
    return tmp_path


def agent(
    folder: Path, body: str, work: str = "import slow_import", ranks: int = 2
) -> subprocess.CompletedProcess[str]:
    program = AGENT.format(body=body, work=f"    {work}", ranks=ranks)
    return subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=folder, capture_output=True, text=True, timeout=600,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{folder}:{ROOT}", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_ranks_share_an_import_and_are_the_agents_own(folder: Path) -> None:
    ran = agent(
        folder,
        'ranks = [ask("rank", f"{n}.json", "0", RANK=str(n), ODD="a=b\\nc\\udcff") for n in (0, 1)]\n'
        "print(os.getpid(), [rank.wait() for rank in ranks], [rank.poll() for rank in ranks])\n"
        "print('left', subprocess.run(['ps', '--ppid', str(os.getpid()), '-o', 'comm='],\n"
        "      capture_output=True, text=True).stdout.split())",
    )
    assert ran.returncode == 0, ran
    lines = ran.stdout.splitlines()
    pid, codes = lines[-2].split(" ", 1)
    assert (codes, lines[-1]) == ("[0, 0] [0, 0]", "left ['ps']")
    assert sorted(lines[:-2]) == ["a rank's own output"] * 2  # and nothing of the import
    zero, one = read(folder / "0.json"), read(folder / "1.json")
    assert zero["imported"] == one["imported"] != int(pid)
    for number, rank in enumerate((zero, one)):
        assert rank["environment"] == {"PATH": "/bin", "RANK": str(number), "ODD": "a=b\nc\udcff"}
        assert rank["argv"] == ["rank", f"{number}.json", "0"]
        assert (rank["main"], rank["leads"], rank["term"], rank["sockets"]) == ("__main__", True, True, [])
        assert (rank["parent"], rank["name"]) == (int(pid), f"vllm-rank-{number}")
        assert (rank["said"], rank["seconds"] >= 0) == ("what the import says\n", True)


@pytest.mark.parametrize(("how", "code"), [("3", 3), ("raise", 1), ("die", -9)])
def test_how_a_rank_ends_is_told(folder: Path, how: str, code: int) -> None:
    ran = agent(folder, f'print("ended", ask("rank", "0.json", "{how}", RANK="0").wait(60))', ranks=1)
    assert ran.stdout.splitlines()[-1] == f"ended {code}", ran
    assert ("ValueError: of the rank's own" in ran.stderr) == (how == "raise")


def test_a_rank_that_runs_on_is_waited_for_with_a_limit(folder: Path) -> None:
    ran = agent(
        folder,
        'rank = ask("rank", "0.json", "wait", RANK="0")\n'
        "try:\n    rank.wait(0.2)\nexcept subprocess.TimeoutExpired as error:\n    print('limit', rank.poll())\n"
        "os.killpg(rank.pid, signal.SIGTERM)\nprint('ended', rank.wait())",
        ranks=1,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-2:] == ["limit None", "ended -15"], ran


@pytest.mark.parametrize(
    ("work", "why"),
    [
        ("raise ImportError('no vllm here')", "OSError ImportError: no vllm here"),
        ("os._exit(3)", "EOFError"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "EOFError"),
        ("fork_server._DEVICES = ('/dev/null',); os.dup2(os.open('/dev/null', 0), 77)", "its import opens /dev/null"),
    ],
)
def test_where_it_cannot_the_agent_starts_them_itself(folder: Path, work: str, why: str) -> None:
    ran = agent(folder, 'print([ask("rank", "0.json", "0"), ask("rank", "1.json", "0")])', work)
    assert ran.stdout.splitlines()[-1] == "[None, None]"
    said = ran.stderr.splitlines()
    assert len(said) == 1 and said[0].startswith("vllm-hpc: each rank imports vLLM itself: ") and why in said[0]


def test_an_import_without_end_is_not_waited_for_without_end(folder: Path) -> None:
    ran = agent(folder, 'fork_server.IMPORT_S = 0.2\nprint(ask("rank", "0.json", "0"))', "time.sleep(600)")
    assert (ran.stdout, "took more than 0.2 s" in ran.stderr) == ("None\n", True)


def test_other_words_than_torchruns_are_not_forked(folder: Path) -> None:
    ran = agent(
        folder, "print(server.rank(['numactl', sys.executable, '-u', '-m', 'a_rank'], {}), server.rank([], {}))"
    )
    assert ran.stdout == "None None\n"


def test_it_ends_with_its_agent(folder: Path) -> None:
    """Killed, too, while it imports."""
    ran = agent(folder, "print(server._pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)")
    assert ran.returncode == -9
    pid = int(ran.stdout)
    # subprocess.run returns once nobody holds its pipes: the server did.
    assert not Path("/proc", str(pid)).exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()
