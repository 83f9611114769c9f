"""--debug-ranks: every line has its rank, also a library's and the last ones of a process that a signal ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vllm_hpc.engine.health import log_relay
from vllm_hpc.jobfolder.fatal_signals import _PREFIX

pytestmark = pytest.mark.programs

HEAD = """
import faulthandler, os, sys
from pathlib import Path
from vllm_hpc.engine.health.rank_log import prefix_lines
log = Path(sys.argv[1])
print("before", file=log.open("a"), flush=True)
faulthandler.enable()
prefix_lines(log, 3, 8)
print(os.getpid(), flush=True)
"""


def run(tmp_path: Path, body: str, env: dict[str, str] | None = None) -> tuple[int, list[str], str]:
    """Exit code of a process that prints, and the lines of its log once the relay has ended; the prefix."""
    log = tmp_path / "rank-3.log"
    done = subprocess.run([sys.executable, "-c", HEAD + body, str(log)], timeout=60, cwd=Path(__file__).parents[2])
    give_up = time.monotonic() + 20
    while relays(log) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not relays(log)
    first, pid, *lines = log.read_text(errors="replace").splitlines()
    assert first == "before"
    prefix, _, number = pid.rpartition(" ")
    assert number.isdecimal()
    assert prefix.startswith("[rank 3/8 ") and prefix.endswith("]")
    return done.returncode, lines, prefix + " "


def relays(log: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if log_relay.__file__ in process.cmdline() and str(log) in {one.path for one in process.open_files()}:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_every_line_has_its_rank_whoever_prints_it(tmp_path: Path) -> None:
    code, lines, prefix = run(
        tmp_path,
        """
print("one\\n\\ntwo", flush=True)
os.write(2, b"by a library\\nin two ")
os.write(2, b"pieces\\n\\xff\\n")
os.system("echo a child")
print("no end", end="")
""",
    )
    assert code == 0
    said = ("one", "", "two", "by a library", "in two pieces", "\ufffd", "a child", "no end")
    assert lines == [prefix + one for one in said]


@pytest.mark.parametrize(
    ("body", "code", "last"),
    [
        ("import ctypes; ctypes.string_at(8)", -11, "Fatal Python error: Segmentation fault"),
        ("os.abort()", -6, "Fatal Python error: Aborted"),
        ("os._exit(9)", 9, "last words"),
        ("os.kill(0, 0) or os.kill(os.getpid(), 9)", -9, "last words"),
        ("os.setpgid(0, 0); import signal; os.killpg(0, signal.SIGTERM)", -15, "last words"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_the_last_lines_are_kept_however_the_rank_ends(tmp_path: Path, body: str, code: int, last: str) -> None:
    fill = "os.write(1, (b'x' * 99 + b'\\n') * 20_000)\nprint('last words', flush=True)"
    ended, lines, prefix = run(tmp_path, f"{fill}\n{body}\n")
    assert ended == code
    assert lines[:20_000] == [prefix + "x" * 99] * 20_000
    rest = [line.removeprefix(prefix) for line in lines[20_000:]]
    assert "last words" in rest and last in rest
    assert all(line.startswith(prefix) for line in lines)


@pytest.mark.full
def test_a_child_that_holds_the_log_keeps_nobody_waiting_for_long(tmp_path: Path) -> None:
    began = time.monotonic()
    code, lines, prefix = run(tmp_path, "import subprocess; subprocess.Popen(['sh', '-c', 'sleep 2.3; echo late'])\n")
    assert (code, lines) == (0, [prefix + "late"])
    assert time.monotonic() - began < 15


def test_the_prefix_is_taken_off_where_a_signal_is_looked_for() -> None:
    assert _PREFIX.sub("", "[rank 3/8 node-1.x] -- rank 3 on n\n[rank 13/88 n] Fatal Python error: A\n[rank x] b") == (
        "-- rank 3 on n\nFatal Python error: A\n[rank x] b"
    )
