"""The signal by which a rank ended itself, from its log and from torchrun's words; and how it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests import crafted
from tests.marks import needs_torch
from vllm_hpc.jobfolder.fatal_signals import FatalSignal, fatal_signal
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.failure import first_error

pytestmark = pytest.mark.inputs

PID = 100  # of rank 0 in a crafted job
BEGIN = "-- rank 0 on node-1, 2026-11-30 06:40:31\n"
# Python 3.11.7 and torch 2.13.0 on Linux, shortened: 'ud2' in a function of /tmp/faults/libbad.so, called with ctypes.
SIGILL = """Fatal Python error: Illegal instruction

Thread 0x00007f816b7fe6c0 (most recent call first):
  File "/opt/vllm_hpc/engine/loop/row_prefetch.py", line 59 in _read_ahead
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f8198ad3b80 (most recent call first):
  File "/opt/env/lib/python3.11/site-packages/torch/_ops.py", line 1269 in __call__
  File "/opt/env/lib/python3.11/site-packages/vllm/model_executor/layers/linear.py", line 210 in apply
  File "/opt/vllm_hpc/engine/loop/loop.py", line 244 in _step

Extension modules: numpy._core._multiarray_umath, torch._C, msgspec._core (total: 3)
SIGILL(4), PID: 100, Thread 11663: 
 frame #0: c10::FatalSignalHandler::stacktraceSignalHandler(bool) + 0x8f (0x7f818cf90c4f in /opt/libc10.so)
frame #1: <unknown function> + 0x3c050 (0x7f819805a050 in /lib/x86_64-linux-gnu/libc.so.6)
frame #2: pthread_cond_wait + 0x1e8 (0x7f81980a65d8 in /lib/x86_64-linux-gnu/libc.so.6)
frame #3: <unknown function> + 0x43581b (0x7f8194e3581b in /opt/numpy.libs/libscipy_openblas64_-fdde5778.so)

SIGILL(4), PID: 100, Thread 100: 
 frame #0: c10::FatalSignalHandler::stacktraceSignalHandler(bool) + 0x8f (0x7f818cf90c4f in /opt/libc10.so)
frame #1: c10::FatalSignalHandler::fatalSignalHandler(int, siginfo_t*) + 0x2da (0x7f818cf9127a in /opt/libc10.so)
frame #2: <unknown function> + 0x3c050 (0x7f819805a050 in /lib/x86_64-linux-gnu/libc.so.6)
frame #3: <unknown function> + 0x8aeec (0x7f81980a8eec in /lib/x86_64-linux-gnu/libc.so.6)
frame #4: gsignal + 0x12 (0x7f8198059fb2 in /lib/x86_64-linux-gnu/libc.so.6)
frame #5: <unknown function> + 0x3c050 (0x7f819805a050 in /lib/x86_64-linux-gnu/libc.so.6)
frame #6: ill + 0 (0x7f81977a211b in /tmp/faults/libbad.so)
frame #7: <unknown function> + 0x6f7a (0x7f8196c80f7a in /lib/x86_64-linux-gnu/libffi.so.8)
<omitting python frames>
frame #29: <unknown function> + 0x2724a (0x7f819804524a in /lib/x86_64-linux-gnu/libc.so.6)
"""  # noqa: W291
CALLED = "apply (vllm/model_executor/layers/linear.py, line 210)"
# docs.python.org/3.14/library/faulthandler.html, "Example".
OF_3_14 = """Fatal Python error: Segmentation fault

Current thread 0x00007fb899f39700 [python] (most recent call first):
  File "/opt/python/Lib/ctypes/__init__.py", line 486 in string_at
  File "<stdin>", line 1 in <module>

Current thread's C stack trace (most recent call first):
  Binary file "/opt/python/python", at _Py_DumpStack+0x42 [0x5b27f7d7147e]
  Binary file "/opt/python/python", at +0x32dcbd [0x5b27f7d85cbd]
  Binary file "/usr/lib/libc.so.6", at +0x3def0 [0x77b73226bef0]
  Binary file "/opt/lib-dynload/_ctypes.cpython-314-x86_64-linux-gnu.so", at +0xcdf6 [0x77b7315dddf6]
"""
# torch 2.13.0, torchrun: the line of its log, and its table.
TORCHRUN = """E1130 06:40:35.344000 12050 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -4) \
local_rank: 0 (pid: 100) of binary: /opt/env/bin/python3
"""
TABLE = """Root Cause (first observed failure):
[0]:
  time      : 2026-11-30_06:40:35
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : {code} (pid: {pid})  ({name})
  error_file: <N/A>
  traceback : Signal 4 (SIGILL) received by PID 100
"""


def short(title: str, before: str = "") -> str:
    """What faulthandler writes of a process with one thread."""
    return f"{before}Fatal Python error: {title}\n\nCurrent thread 0x1 (most recent call first):\n" + (
        '  File "/opt/a b/mödel.py", line 4 in f\n  File "<string>", line 3 in <module>\n'
    )


HERE = "f (/opt/a b/mödel.py, line 4)"


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job whose only rank has vanished."""
    made = crafted.make_job(tmp_path / "job")
    crafted.start(made)
    crafted.rank(made, 0, "running")
    crafted.end(made, 1)
    return made


def found(folder: JobFolder, log: str | bytes, said: str = "") -> FatalSignal | None:
    folder.rank_log(0).write_bytes(log if isinstance(log, bytes) else log.encode())
    folder.scheduler_log.write_text(said)
    return fatal_signal(folder, folder.records_of([0])[0])


LIBBAD = f"libbad.so (ill), called by {CALLED}"
UNNAMED = SIGILL.replace(" ill + 0 ", " <unknown function> + 0x1b ")
READ_AHEAD = "_read_ahead (/opt/vllm_hpc/engine/loop/row_prefetch.py, line 59)"
IN_CTYPES = "_ctypes.cpython-314-x86_64-linux-gnu.so, called by <module> (<stdin>, line 1)"
LONG = SIGILL.replace(" ill + 0 ", f" void k<{'float, ' * 40}true>(long) + 0x3d ")


@pytest.mark.parametrize(
    ("log", "said", "expected"),
    [
        (BEGIN + SIGILL, "", FatalSignal("SIGILL", LIBBAD)),
        (BEGIN + SIGILL, TORCHRUN, FatalSignal("SIGILL", LIBBAD)),
        (BEGIN + SIGILL.replace("PID: 100", "PID: 7"), "", FatalSignal("SIGILL", CALLED)),  # a child of the rank
        (BEGIN + UNNAMED, "", FatalSignal("SIGILL", f"libbad.so, called by {CALLED}")),
        (
            BEGIN + SIGILL.replace("libbad.so", "libc10_cuda.so"),
            "",
            FatalSignal("SIGILL", LIBBAD.replace("bad", "c10_cuda")),
        ),
        (BEGIN + LONG, "", FatalSignal("SIGILL", f"libbad.so (void k<{('float, ' * 40)[:72]}…), called by {CALLED}")),
        (BEGIN + SIGILL[: SIGILL.index("Extension")], "", FatalSignal("SIGILL", CALLED)),  # torch's is missing
        (BEGIN + SIGILL[: SIGILL.index("Current")], "", FatalSignal("SIGILL", READ_AHEAD)),
        (BEGIN + SIGILL[: SIGILL.index("Thread 0x")], "", FatalSignal("SIGILL")),  # the disk was full
        (BEGIN + "\xff\x00noise\n" * 1000 + SIGILL, "", FatalSignal("SIGILL", LIBBAD)),
        (BEGIN + OF_3_14, "", FatalSignal("SIGSEGV", IN_CTYPES)),
        (BEGIN + short("Bus error"), "", FatalSignal("SIGBUS", HERE)),
        (BEGIN + short("Floating point exception"), "", FatalSignal("SIGFPE", HERE)),
        (BEGIN + short("Floating-point exception"), "", FatalSignal("SIGFPE", HERE)),  # Python 3.13.0
        (BEGIN + short("Segmentation fault") + short("Aborted"), "", FatalSignal("SIGABRT", HERE)),
        (BEGIN + short("Segmentation fault").replace("Current thread 0x1", "Stack"), "", FatalSignal("SIGSEGV", HERE)),
        # Only torchrun saw it, or it saw another signal than the log, which may be a child's.
        (BEGIN, TORCHRUN, FatalSignal("SIGILL")),
        ("", TABLE.format(code=-4, pid=PID, name="SIGILL"), FatalSignal("SIGILL")),
        (BEGIN + SIGILL, TABLE.format(code=-9, pid=PID, name="SIGKILL"), None),
        (BEGIN + SIGILL, TABLE.format(code=-11, pid=PID, name="SIGSEGV"), FatalSignal("SIGSEGV")),
        (BEGIN + SIGILL, TABLE.format(code=-9, pid=7, name="SIGKILL"), FatalSignal("SIGILL", LIBBAD)),
        (BEGIN + SIGILL, TABLE.format(code=1, pid=PID, name="<N/A>"), None),
        (BEGIN, TABLE.format(code=-4, pid=PID, name="") + TABLE.format(code=-9, pid=PID, name=""), None),
        # No signal, or that of an attempt before.
        ("", "", None),
        (BEGIN, "", None),
        (BEGIN + SIGILL + BEGIN, "", None),
        (BEGIN + SIGILL + BEGIN + "all is well\n", "", None),
        (BEGIN + "said: Fatal Python error: Aborted\n", "", None),
        (b"\x80\x81" * 5000, "", None),
    ],
)
def test_what_a_log_says(folder: JobFolder, log: str | bytes, said: str, expected: FatalSignal | None) -> None:
    assert found(folder, log, said) == expected


@pytest.mark.parametrize(
    ("before", "title", "reason"),
    [
        # glibc 2.36, and libstdc++ 12.
        ("free(): double free detected in tcache 2\n", "Aborted", "free(): double free detected in tcache 2"),
        ("malloc(): corrupted top size\n", "Aborted", "malloc(): corrupted top size"),
        ("*** stack smashing detected ***: terminated\n", "Aborted", "*** stack smashing detected ***: terminated"),
        ("python: a.c:3: f: Assertion `x' failed.\n", "Aborted", "python: a.c:3: f: Assertion `x' failed."),
        (
            "terminate called after throwing an instance of 'std::runtime_error'\n"
            "  what():  CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA\n",
            "Aborted",
            "CUDA error: unspecified launch failure",
        ),
        ("INFO loading\n", "Aborted", ""),
        ("malloc(): corrupted top size\n" + "INFO\n" * 50, "Aborted", ""),
        ("", "_PyMem_DebugFree: bad ID", "_PyMem_DebugFree: bad ID"),
    ],
)
def test_why_a_process_aborted_itself(folder: JobFolder, before: str, title: str, reason: str) -> None:
    assert found(folder, BEGIN + short(title, before)) == FatalSignal("SIGABRT", HERE, reason)


# Of public logs: torch 2.7, and ncclGetErrorString of NCCL 2.21.
WATCHDOG = (
    "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG ID 0 PG GUID 0(default_pg) "
    "Rank 0] Process group watchdog thread terminated with exception: "
)
LOST_PEER = f"{WATCHDOG}NCCL error: remote process exited or there was a network error, NCCL version 2.21.5\n"
OWN_ERROR = f"{WATCHDOG}CUDA error: device-side assert triggered\n"
VANISHED = "vanished without an error: killed, or out of memory?"


@pytest.mark.parametrize(
    ("logs", "rank", "said"),
    [
        ([short("Segmentation fault"), ""], 0, f"was killed by SIGSEGV, a segmentation fault, in {HERE}"),
        (["", short("Bus error")], 1, f"was killed by SIGBUS, a bus error, in {HERE}"),
        (["", ""], 0, VANISHED),
        ([short("Aborted", LOST_PEER), ""], 1, VANISHED),
        (
            [short("Aborted", OWN_ERROR), ""],
            0,
            f"was killed by SIGABRT, an abort, in {HERE}: {OWN_ERROR.strip().split('what():  ')[1]}",
        ),
        (
            [short("Aborted", LOST_PEER), short("Illegal instruction")],
            1,
            f"was killed by SIGILL, an illegal instruction, in {HERE}",
        ),
    ],
)
def test_the_cause_is_the_rank_that_had_not_lost_another(tmp_path: Path, logs: list[str], rank: int, said: str) -> None:
    folder = crafted.make_job(tmp_path / "job", shape=crafted.layout(tp=2))
    crafted.start(folder)
    for number, log in enumerate(logs):
        crafted.rank(folder, number, "running")
        folder.rank_log(number).write_text(BEGIN + log)
    crafted.end(folder, 1)
    assert first_error(folder) == (f"rank {rank} on node-1 (pid {PID + rank}) {said}", "")


# task_cgroup_memory.c of Slurm 20.11 and later, and as sites document it of earlier ones; srun's own.
OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."
OLD = "slurmstepd: error: Detected 1 oom-kill event(s) in step 7.0 cgroup."
SRUN = "srun: error: n1: task 0: Out Of Memory"
AGAIN = "vllm-hpc: running again: a rank died; 3 row(s) are left"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (OOM, f"vanished without an error: out of memory ({OOM})"),
        (f"{OLD}\nsrun: error: x", f"vanished without an error: out of memory ({OLD})"),
        (SRUN, f"vanished without an error: out of memory ({SRUN})"),
        (f"{OOM}\n{AGAIN}\nsrun: error: n1: task 0: Killed", VANISHED),
        ("my prompt: out of memory, oom_kill", VANISHED),
        ("", VANISHED),
    ],
)
def test_memory_is_named_where_the_scheduler_names_it(folder: JobFolder, log: str, said: str) -> None:
    folder.scheduler_log.write_text(log + "\n")
    assert first_error(folder) == (f"rank 0 on node-1 (pid 100) {said}", "")


def ended(folder: JobFolder, code: str) -> tuple[FatalSignal | None, int]:
    """What is found of a process whose standard error is the log of a rank, and how it has ended."""
    folder.rank_log(0).write_text(BEGIN)
    program = f"import os, signal\nfrom vllm_hpc.engine.health import fatal_signals\n{code}"
    with folder.rank_log(0).open("ab") as log:
        ran = subprocess.Popen([sys.executable, "-c", program], stderr=log)
        code_of = ran.wait(120)
    crafted.rank(folder, 0, "running")
    record = folder.records_of([0])[0]
    return fatal_signal(folder, msgspec.structs.replace(record, pid=ran.pid)), code_of


@pytest.mark.parametrize("name", ["SIGILL", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_process_tells_its_own_signal(folder: JobFolder, name: str) -> None:
    code = f"fatal_signals.tell_python_stack()\ndef f(): os.kill(os.getpid(), signal.{name})\nf()"
    number = signal.Signals[name]
    told = FatalSignal(name, "f (<string>, line 4)") if name != "SIGKILL" else None
    assert ended(folder, code) == (told, -number)


@needs_torch
def test_torch_names_the_library(folder: JobFolder) -> None:
    """A real division by zero, in a library's function; and SIGINT stays Python's."""
    code = (
        "fatal_signals.tell_python_stack()\nfatal_signals.tell_modules()\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "import ctypes\nlibgcc = ctypes.CDLL('libgcc_s.so.1')\n"
        "divide = libgcc.__udivti3\ndivide.argtypes = [ctypes.c_uint64] * 4\n"
        "def f(): divide(1, 1, 0, 0)\nf()"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("other processors divide by zero without a signal")
    told, code_of = ended(folder, code)
    assert code_of == -signal.SIGFPE
    assert told == FatalSignal("SIGFPE", "libgcc_s.so.1 (__udivti3), called by f (<string>, line 10)")
