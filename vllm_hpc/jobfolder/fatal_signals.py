"""The signal by which a rank ended itself (SIGILL, SIGSEGV ...) and where: read from its log, and torchrun's words.

The log has what Python's faulthandler writes (Modules/faulthandler.c), and the C++ stack in torch's form
(c10/util/signal_handler.cpp, torch 2.13) or in that of Python 3.14 (Python/traceback.c, _Py_DumpStack).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.spec.read_file import read_end

# Bytes at the end of a log: stacks of some hundred threads, and torchrun's table of failures.
_TAIL_OF_RANK, _TAIL_OF_SCHEDULER = 1 << 22, 1 << 18
_KINDS = {
    "SIGILL": "an illegal instruction",
    "SIGBUS": "a bus error",
    "SIGFPE": "an arithmetic error",
    "SIGSEGV": "a segmentation fault",
    "SIGABRT": "an abort",
}
_NUMBERS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}
# faulthandler's words; the hyphen is Python 3.13's.
_TITLES = {
    "Illegal instruction": "SIGILL", "Bus error": "SIGBUS", "Floating point exception": "SIGFPE",
    "Floating-point exception": "SIGFPE", "Segmentation fault": "SIGSEGV", "Aborted": "SIGABRT",
}  # fmt: skip
# A rank's log is appended over attempts, and each begins with this line (engine/rank.py).
_BEGINNING = re.compile(r"^-- rank \d+ on ", re.MULTILINE)
# What --debug-ranks puts before each line (engine/health/rank_log.py).
_PREFIX = re.compile(r"^\[rank \d+/\d+ [^\]\n]*\] ", re.MULTILINE)
_TITLE = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_PYTHON_STACK = re.compile(r"^(Current thread|Thread|Stack) [^\n]*\n((?:  File [^\n]+\n)+)", re.MULTILINE)
_PYTHON_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_TORCH_STACK = re.compile(r"^SIG\w+\(\d+\), PID: (\d+), Thread \d+:[^\n]*\n((?: ?frame #[^\n]+\n)+)", re.MULTILINE)
_TORCH_FRAME = re.compile(r"^ ?frame #\d+: (.+) \+ (?:0x)?[0-9a-f]+ \(0x[0-9a-f]+ in (.+)\)$", re.MULTILINE)
_C_STACK = re.compile(r"^Current thread\'s C stack trace [^\n]*\n((?:  Binary file [^\n]+\n)+)", re.MULTILINE)
_C_FRAME = re.compile(r'^  Binary file "(.+)", at (\w*)[+-](?:0x)?[0-9a-f]+ \[', re.MULTILINE)
# Frames of the handlers themselves and of the C library, which only carry out what others asked for.
_HANDLER = "FatalSignalHandler::"
_NOBODYS = re.compile(r"(libc|libc10|libpthread|ld-linux[\w-]*|libstdc\+\+|(lib)?python[\d.]*)(?=[-.]|$)")
# Python's frames that only pass a call on.
_PASSES_ON = re.compile(r"(torch/_ops|torch/nn/modules/module|torch/utils/_contextlib|ctypes/__init__)\.py$")
_PACKAGES = re.compile(r"^.*/(?:site|dist)-packages/")
# Why a process aborted itself: C++ exceptions, glibc's checks of the heap and the stack, assertions.
_REASON = re.compile(
    r"^\s*what\(\):\s*(.+)$|^(.*Assertion .+ failed.*|(?:malloc|free|realloc|munmap_chunk)\w*\(\): .+|double free .+"
    r"|corrupted .+|\*\*\* .+ \*\*\*.*)$",
    re.MULTILINE,
)
_REASON_LINES = 40
# What NCCL's watchdog (torch, ProcessGroupNCCL.cpp) says when it ends a rank that has lost another. It ends ranks for
# errors of their own, too.
_PEER_LOST = re.compile(
    r"remote process exited|ncclRemoteError|collective operation timeout|connection (closed|reset)", re.IGNORECASE
)
_LONGEST_NAME = 80
# torch/distributed/elastic/multiprocessing/errors/__init__.py, _FAILURE_FORMAT_TEMPLATE; 'failed (exitcode: -4)
# local_rank: 0 (pid: 123)' is in api.py beside it.
_EXIT_CODE = re.compile(r"exitcode\s*: (-?\d+)\)? (?:local_rank: \d+ )?\(pid: (\d+)\)")


class FatalSignal(msgspec.Struct, frozen=True):
    """A signal's name, ``where`` it came (a library, a Python function), and the process's own reason for an abort.

    They are "" where they are not known.
    """

    name: str
    where: str = ""
    reason: str = ""

    @property
    def words(self) -> str:
        """What it was, where, and why."""
        where, reason = f", in {self.where}" * bool(self.where), f": {self.reason}" * bool(self.reason)
        return f"{_KINDS[self.name]}{where}{reason}"

    @property
    def is_echo(self) -> bool:
        """Whether the process aborted itself because another rank was gone."""
        return self.name == "SIGABRT" and bool(_PEER_LOST.search(self.reason))


def fatal_signal(folder: JobFolder, rank: RankRecord) -> FatalSignal | None:
    """The signal by which a rank that vanished in the last attempt ended itself; None if it was another, or unknown."""
    code = _exit_code(_tail(folder.scheduler_log, _TAIL_OF_SCHEDULER), rank.pid)
    log = _BEGINNING.split(_PREFIX.sub("", _tail(folder.rank_log(rank.rank), _TAIL_OF_RANK)))[-1]
    titles = list(_TITLE.finditer(log))
    # Any other title than a signal's is the interpreter's reason to abort (Py_FatalError).
    seen = _TITLES.get(titles[-1][1], "SIGABRT") if titles else None
    name = seen if code is None else _NUMBERS.get(-code)
    if name is None:
        return None
    if not titles or name != seen:
        return FatalSignal(name)
    before, stacks = log[: titles[-1].start()], log[titles[-1].end() :]
    called, library = _python_function(stacks), _library(stacks, rank.pid)
    where = f"{library}, called by {called}" if library and called else library or called
    return FatalSignal(name, where, _reason(before, titles[-1][1]) if name == "SIGABRT" else "")


def _exit_code(text: str, pid: int) -> int | None:
    """The exit code that torchrun has told of a process; below 0 it is a signal's number."""
    codes = [int(code) for code, of in _EXIT_CODE.findall(text) if int(of) == pid]
    return codes[-1] if codes else None


def _python_function(stacks: str) -> str:
    """The innermost Python function that is not there to pass a call on, of the thread that the signal came to.

    If it came to a thread without Python, that is the main thread, whose stack is the last.
    """
    found = list(_PYTHON_STACK.finditer(stacks))
    if not found:
        return ""
    stack = next((one for one in found if one[1] == "Current thread"), found[-1])
    frames = _PYTHON_FRAME.findall(stack[2])
    own = [frame for frame in frames if not _PASSES_ON.search(frame[0])] or frames
    path, line, function = own[0]
    return f"{function} ({_PACKAGES.sub('', path)}, line {line})"


def _library(stacks: str, pid: int) -> str:
    """The library in which the signal came, with the function if its name is known."""
    torchs = [stack for of, stack in _TORCH_STACK.findall(stacks) if int(of) == pid and f"{_HANDLER}fatal" in stack]
    frames = [(file, name) for name, file in _TORCH_FRAME.findall(torchs[0])] if torchs else []
    if not frames and (own := _C_STACK.search(stacks)):
        frames = _C_FRAME.findall(own[1])
    for path, function in frames:
        file = PurePosixPath(path).name
        if not _NOBODYS.match(file):
            short = function if len(function) <= _LONGEST_NAME else f"{function[: _LONGEST_NAME - 1]}…"
            return file if not function or "<unknown" in function else f"{file} ({short})"
    return ""


def _reason(before: str, title: str) -> str:
    """The last words before an abort that say why, or the interpreter's own."""
    if title not in _TITLES:
        return title
    last = "\n".join(before.rstrip("\n").split("\n")[-_REASON_LINES:])
    found = [next(filter(None, groups)) for groups in _REASON.findall(last)]
    return found[-1].strip() if found else ""


def _tail(path: Path, most: int) -> str:
    """The end of a log; "" if there is none."""
    try:
        return read_end(path, most)[0].decode(errors="replace")
    except OSError:
        return ""
