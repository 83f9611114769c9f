"""A process that has imported once forks ranks: as torchrun would have started them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.real_jobs import wait_for
from tests.test_docs import ROOT
from vllm_hpc.engine.startup.fork_server import SharedImport

# A module that a rank runs, what it imports, and an agent that asks for ranks and prints how they ended.
RANK = """
import atexit, json, os, signal, sys
import slow_import
from vllm_hpc.engine.startup.fork_server import shared_import
shared = shared_import()
print("a rank's own output")
opened = [int(one) for one in os.listdir("/proc/self/fd") if int(one) > 2 and os.path.exists(f"/proc/self/fd/{one}")]
found = {
    "argv": sys.argv[1:], "environment": dict(os.environ), "parent": os.getppid(), "leads": os.getsid(0) == os.getpid(),
    "imported": slow_import.by, "said": shared.said, "seconds": shared.seconds, "set": shared.variables,
    "opened": opened, "main": __name__, "term": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
    "name": open("/proc/self/comm").read().strip(),
}
with open(sys.argv[2], "w") as file:
    json.dump(found, file)
atexit.register(print, "at exit")
if sys.argv[3] == "text":
    sys.exit("its last words")
if sys.argv[3] == "raise":
    raise ValueError("of the rank's own")
if sys.argv[3] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "wait":
    signal.pause()
sys.exit(int(sys.argv[3]))
"""
SLOW_IMPORT = """
import os
by = os.getpid()
os.environ.update(NEW="1", CHANGED="after")
print("what the import says")
"""
AGENT = """
import json, os, signal, subprocess, sys, time
from vllm_hpc.engine.startup import fork_server, forked_ranks

def work():
{work}

server = forked_ranks.start({ranks}, work)
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
    path = f"{folder}:{ROOT}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "CHANGED": "before"}
    with (folder / "handed-on").open("w") as handed_on:
        return subprocess.run(
            [sys.executable, "-P", "-c", program], cwd=folder, capture_output=True, text=True, timeout=600,
            pass_fds=(handed_on.fileno(),), env=environment,
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
    # Two ranks print at once, each line in two pieces; and nothing of what the import said.
    assert sorted("\n".join(lines[:-2])) == sorted("\n".join(["a rank's own output", "at exit"] * 2))
    zero, one = read(folder / "0.json"), read(folder / "1.json")
    assert zero["imported"] == one["imported"] != int(pid)
    for number, rank in enumerate((zero, one)):
        assert rank["environment"] == {"PATH": "/bin", "RANK": str(number), "ODD": "a=b\nc\udcff"}
        assert rank["argv"] == ["rank", f"{number}.json", "0"]
        assert (rank["main"], rank["leads"], rank["term"]) == ("__main__", True, True)
        assert len(rank["opened"]) == 0, "what the agent's caller handed on"
        assert rank["set"] == {"NEW": [None, "1"], "CHANGED": ["before", "after"]}
        assert (rank["parent"], rank["name"]) == (int(pid), f"vllm-rank-{number}")
        assert (rank["said"], rank["seconds"] >= 0) == ("what the import says\n", True)


@pytest.mark.parametrize(("how", "code"), [("3", 3), ("raise", 1), ("die", -9), ("text", 1)])
def test_how_a_rank_ends_is_told(folder: Path, how: str, code: int) -> None:
    ran = agent(folder, f'print("ended", ask("rank", "0.json", "{how}", RANK="0").wait(60))', ranks=1)
    assert ran.stdout.splitlines()[-1] == f"ended {code}", ran
    assert ("ValueError: of the rank's own" in ran.stderr) == (how == "raise")
    assert ("its last words" in ran.stderr.splitlines()) == (how == "text")
    assert ("at exit" in ran.stdout.splitlines()) == (how != "die")


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
        ("raise ImportError('no vllm here')", ": ImportError: no vllm here"),
        ("os._exit(3)", "has ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "has been killed by signal 9"),
        ("fork_server._DEVICES = ('/dev/null',); os.dup2(os.open('/dev/null', 0), 77)", "its import opens /dev/null"),
        (
            "import threading; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "leaves threads: Main",
        ),
    ],
)
def test_where_it_cannot_the_agent_starts_them_itself(folder: Path, work: str, why: str) -> None:
    ran = agent(folder, 'print([ask("rank", "0.json", "0"), ask("rank", "1.json", "0")])', work)
    assert ran.stdout.splitlines()[-1] == "[None, None]"
    said = ran.stderr.splitlines()
    assert len(said) == 1 and said[0].startswith("vllm-hpc: each rank imports vLLM itself: ") and why in said[0]


def test_an_import_that_gets_nowhere_is_given_up(folder: Path) -> None:
    ran = agent(folder, 'forked_ranks.STILL_S = 0.2\nprint(ask("rank", "0.json", "0"))', "time.sleep(600)")
    assert (ran.stdout, "got nowhere for 0.2 s" in ran.stderr) == ("None\n", True)


def test_closed_while_it_imports_it_is_not_waited_for(folder: Path) -> None:
    """As where the nodes do not meet. Orphans are the agent's no more."""
    ran = agent(
        folder,
        "began = time.monotonic()\nserver.close()\nserver.close()\nprint(time.monotonic() - began < 30)\n"
        "print(ask('rank', '0.json', '0'))\n"
        "subprocess.run(['sh', '-c', 'sleep 60 > /dev/null 2>&1 &'])\n"
        "print(subprocess.run(['ps', '--ppid', str(os.getpid()), '-o', 'comm='], capture_output=True).stdout.split())",
        "time.sleep(600)",
    )
    assert ran.stdout == "True\nNone\n[b'ps']\n", ran


def test_an_agent_that_is_told_to_end_while_it_waits_ends(folder: Path) -> None:
    """torchrun's handler raises an exception of its own."""
    ran = agent(
        folder,
        "def told(*_):\n    raise KeyError('told')\nsignal.signal(signal.SIGTERM, told)\n"
        "subprocess.Popen(['sh', '-c', f'sleep 0.5; kill {os.getpid()}'])\nask('rank', '0.json', '0')",
        "time.sleep(600)",
    )
    assert (ran.returncode, "KeyError: 'told'" in ran.stderr, ran.stdout) == (1, True, "")


def test_a_rank_sets_what_the_import_has_set_but_for_what_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"V_NEW": (None, "1"), "V_SAME": ("a", "b"), "V_CHANGED": ("a", "b"), "V_OWN": (None, "2")}
    for name, value in {"V_NEW": "", "V_SAME": "a", "V_CHANGED": "c", "V_OWN": "3"}.items():
        monkeypatch.setenv(name, value)
    del os.environ["V_NEW"]
    SharedImport(1.0, "", variables).set_variables()
    assert {name: os.environ[name] for name in variables} == {
        "V_NEW": "1", "V_SAME": "b", "V_CHANGED": "c", "V_OWN": "3",
    }  # fmt: skip


def test_it_ends_with_its_agent(folder: Path) -> None:
    """Killed, too, while it imports."""
    ran = agent(
        folder, "print(server._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)"
    )
    assert ran.returncode == -9
    server = int(ran.stdout)
    wait_for(lambda: not psutil.pid_exists(server), "the server has ended", 60)
