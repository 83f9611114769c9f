"""What another process of this user can be seen to do: stopped, busy in C, gone, or one that knows nothing of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests import crafted
from vllm_hpc.engine.health import hang, processes, stacks
from vllm_hpc.engine.health.inquiry import Listener, Witness, outside_view
from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.jobfolder.debug_records import DebugFiles, Frame, RankView, Thread
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import RankRecord

pytestmark = [pytest.mark.programs, pytest.mark.timeout(60)]
ROOT = Path(__file__).parents[2]
# A process that keeps its last place, as the watchdog of rank 1 does, and then does what the test wants.
RANK = """
import ctypes, os, sys, time
from vllm_hpc.engine.health import stacks
from vllm_hpc.engine.health.processes import Sight
from vllm_hpc.jobfolder.debug_records import RankView
def keep():
    stack = stacks.main_thread().stack
    sight.keep(RankView(rank=1, attempt=1, host="node-1", pid=os.getpid(), source="rank", at=time.time(), stack=stack))
def wait():
    print("ready", flush=True)
    sys.stdin.readline()
def hold_the_interpreter():
    print("ready", flush=True)
    while True:
        ctypes.PyDLL(None).usleep(100_000_000)  # a PyDLL's functions run with the lock
sight = Sight()
keep()
keep()
{what}()
"""


@contextmanager
def running(code: str, *argv: str) -> Iterator[int]:
    """A Python process, once it has said that it is ready."""
    command = [sys.executable, "-c", textwrap.dedent(code), *argv]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@contextmanager
def rank(what: str) -> Iterator[int]:
    with running(RANK.replace("{what}", what)) as pid:
        yield pid


def record(pid: int, number: int = 1) -> RankRecord:
    return RankRecord(
        rank=number, replica=0, attempt=1, host="node-1", pid=pid, device="cpu", outcome="running", updated_at=0.0
    )


def test_a_stopped_process_is_seen_where_it_was_last() -> None:
    with rank("wait") as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        seen = outside_view(record(pid), "neighbour")
        assert processes.dump_of(pid) == ""
        os.kill(pid, signal.SIGCONT)
    assert (seen.process, seen.source, seen.rank) == ("T", "neighbour", 1)
    assert [frame.function for frame in seen.stack] == ["main_thread", "keep", "<module>"]
    assert seen.seen_s >= 0


def test_a_library_that_holds_the_interpreter_does_not_hide_the_stack() -> None:
    with rank("hold_the_interpreter") as pid:
        seen = outside_view(record(pid), "agent")
        assert processes.state_of(pid)[0] in ("R", "S"), "it goes on"
    assert seen.stack[0].function == "hold_the_interpreter"
    assert seen.seen_s == 0


def test_a_process_without_a_handler_gets_no_signal() -> None:
    """The default of a real-time signal ends a process; a process id may be another's by now."""
    with running("import sys; print('ready', flush=True); sys.stdin.readline()") as pid:
        assert not processes.has_handler(pid)
        assert (processes.dump_of(pid), processes.last_sight(pid)) == ("", None)
        assert outside_view(record(pid), "agent").process == "gone", "that id is not the rank's any more"
        assert processes.state_of(pid)[0] in ("R", "S")


def test_a_process_that_is_gone() -> None:
    with rank("wait") as pid:
        pass
    seen = outside_view(record(pid), "agent")
    assert (seen.process, seen.stack) == ("gone", ())


def test_the_sight_of_another_rank_is_not_taken_for_this_one() -> None:
    with rank("wait") as pid:
        seen = outside_view(record(pid, 2), "agent")
    assert seen.stack == ()


def test_an_agent_answers_for_the_silent_ranks_of_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for those of other nodes, of earlier attempts, or that have ended; nor what a rank has said itself."""
    monkeypatch.setenv("SLURMD_NODENAME", "node-1")
    monkeypatch.setattr("vllm_hpc.engine.health.inquiry.OWN_S", 0.0)
    folder = crafted.make_job(tmp_path / "job")
    for number, outcome, attempt in ((0, "running", 1), (1, "running", 1), (2, "ok", 1), (3, "running", 2)):
        crafted.rank(folder, number, outcome, attempt=attempt)
    listener = Listener(folder, 1, range(8), None)
    files = DebugFiles(folder)
    number = files.ask()
    said = RankView(rank=0, attempt=1, host="node-1", pid=1, source="rank", at=1.0)
    write_json(files.answer(number, 0), said)
    listener.listen()
    found = files.read(number, range(8))
    assert sorted(found) == [0, 1]
    assert (found[0], found[1].source) == (said, "agent")
    assert not listener.is_waiting


def test_questions_are_heard_once_each_and_not_those_from_before(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job")
    files, heard = DebugFiles(folder), []
    files.ask()

    def examine() -> RankView:
        heard.append(files.last_number())
        return RankView(rank=0, attempt=1, host="node-1", pid=1, source="rank", at=1.0)

    listener = Listener(folder, 1, range(0), (0, examine))
    listener.listen()
    assert heard == []
    assert [files.ask(), files.ask()] == [2, 3]
    listener.listen()
    listener.listen()
    assert heard == [3, 3]
    assert set(files.read(2, [0])) == set(files.read(3, [0])) == {0}


def test_a_question_by_hand_may_leave_out_numbers(tmp_path: Path) -> None:
    """Who makes control/debug-<n> by hand cannot know how often was asked, and later questions are heard, too."""
    folder = crafted.make_job(tmp_path / "job")
    files = DebugFiles(folder)

    def examine() -> RankView:
        return RankView(rank=0, attempt=1, host="node-1", pid=1, source="rank", at=1.0)

    listener = Listener(folder, 1, range(0), (0, examine))
    files.asked(700_000_000).touch()
    listener.listen()
    assert set(files.read(700_000_000, [0])) == {0}
    number = files.ask()
    listener.listen()
    assert set(files.read(number, [0])) == {0}


def test_of_many_odd_ranks_few_have_their_side_threads_on_record() -> None:
    view = RankView(rank=0, attempt=1, host="node-1", pid=1, source="rank", at=1.0)
    thread = Thread("other", (Frame("a.py", 1, "wait"),))
    views = [msgspec.structs.replace(view, rank=rank, threads=(thread,), native="py-spy") for rank in range(200)]
    kept = hang._kept(views, range(100))
    assert [one.rank for one in kept] == [*range(64), *range(100, 164)]
    assert [one.rank for one in kept if one.threads and one.native] == list(range(8))


def test_two_who_ask_at_once_share_an_answer(tmp_path: Path) -> None:
    files = DebugFiles(crafted.make_job(tmp_path / "job"))
    numbers: list[int] = []
    those = [threading.Thread(target=lambda: numbers.append(files.ask())) for _ in range(8)]
    for one in those:
        one.start()
    for one in those:
        one.join()
    assert len(numbers) == 8
    assert max(numbers) == files.last_number() <= 8


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder.path / "state" / "debug-1").symlink_to(outside)
    with pytest.raises(OSError, match="it must be a folder, not a link"):
        DebugFiles(folder).ask()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        pytest.param(b"\0" * 100, id="zeros"),
        b'{"rank": "x"}',
        pytest.param(b"[" * 100_000, id="deep"),
        b'{"rank": 1, "attempt": 1}',
    ],
)
def test_a_damaged_answer_is_no_answer(tmp_path: Path, content: bytes) -> None:
    folder = crafted.make_job(tmp_path / "job")
    files = DebugFiles(folder)
    number = files.ask()
    files.answer(number, 1).write_bytes(content)
    files.hang(1).write_bytes(content)
    assert files.read(number, [1]) == {}
    assert files.read_hang(1) is None


def test_names_that_are_no_questions(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job")
    for name in ("debug-", "debug-x", "debug-1.json", "debug--3", "debug-99999999999999", "drain"):
        (folder.path / "control" / name).touch()
    assert DebugFiles(folder).last_number() == 0
    assert DebugFiles(JobFolder(tmp_path / "nothing")).last_number() == 0


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0200000A:9C40 01 00000010:00000000 01:00000020 00000005     0        0 111 1 0 20 4 30 10 -1
   1: 0100007F:1F90 0300000A:9C40 01 00000010:00000000 01:00000020 00000001     0        0 111 1 0 20 4 30 10 -1
   2: 0100007F:1F90 0400000A:9C40 01 00000010:00000000 01:00000020 00000009     0        0 999 1 0 20 4 30 10 -1
   3: 0100007F:1F90 0500000A:9C40 0A 00000000:00000000 00:00000000 00000009     0        0 111 1 0 20 4 30 10 -1
   4: short
"""


def test_who_does_not_acknowledge_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this process's own connections, that are established, and whose last segment was sent several times."""
    monkeypatch.setattr(processes, "_proc", lambda pid, name: TCP if name == "net/tcp" else "")
    monkeypatch.setattr(processes, "_own_sockets", lambda: {"111"})
    monkeypatch.setenv("GROUP_RANK", "0")
    assert processes.unreached() == ("10.0.0.2",)


@pytest.mark.parametrize(
    ("digits", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000200000A", "10.0.0.2"),
    ],
)
def test_addresses_of_the_kernel(digits: str, address: str) -> None:
    assert processes._address(digits) == address


def test_own_state() -> None:
    assert processes.state_of(os.getpid())[0] == "R"
    assert processes.state_of(2**22 + 1) == ("gone", "")


@pytest.mark.parametrize(("looks", "state"), [("DDS", "S"), ("D", "D")])
def test_a_wait_for_a_disk_counts_if_it_lasts(monkeypatch: pytest.MonkeyPatch, looks: str, state: str) -> None:
    seen = iter(looks)
    last = looks[-1]
    monkeypatch.setattr(processes, "_LASTING_S", 0.05)
    monkeypatch.setattr(processes, "_proc", lambda pid, name: f"7 (x) {next(seen, last)} 1" if name == "stat" else "")
    assert processes.state_of(7)[0] == state


def test_a_file_of_any_name_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks must not end the rank for it."""
    found: list[RankView] = []
    witness = Witness(RankReport(crafted.make_job(tmp_path / "job"), 0, 0, 1), has_program=True)
    code = compile("look()", "/home/u/\udcff\n.py", "exec")
    monkeypatch.setattr(threading, "main_thread", threading.current_thread)
    exec(code, {"look": lambda: found.append(witness.look())})
    assert "/home/u/\\udcff\n.py" in [frame.file for frame in found[0].stack]
    monkeypatch.setattr(stacks, "main_thread", lambda: 1 / 0)
    assert witness.look().phase == "cannot look at itself: ZeroDivisionError"


def test_faulthandlers_words() -> None:
    text = (
        'Thread 0x00007f (most recent call first):\n  File "/a b/x.py", line 3 in <lambda>\n\n'
        'Current thread 0x00008 (most recent call first):\n  File "/a/y.py", line 7 in inner\n'
        '  File "/a/y.py", line 9 in <module>\n'
    )
    stack, threads = stacks.parse(text)
    assert stack == (Frame("/a/y.py", 7, "inner"), Frame("/a/y.py", 9, "<module>"))
    assert threads[0].stack == (Frame("/a b/x.py", 3, "<lambda>"),)
    assert stacks.parse("nothing") == ((), ())
