"""Where a rank's threads are, and whether its main thread waits for other ranks there.

From the interpreter itself; or from what faulthandler has written, of a process whose Python does not get to run.
"""

from __future__ import annotations

import linecache
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple

from vllm_hpc.jobfolder.debug_records import Collective, Frame, Thread

_DEEPEST = 60
_MOST_THREADS = 24
# Code whose functions wait for other ranks, by the end of a file's name; of ours only those that do.
_WAITS = re.compile(
    r"(torch/distributed/.*|vllm/distributed/.*|vllm_hpc/engine/(store/\w+|loop/lockstep|startup/(replicas|meeting)"
    r"|programs/(context|barrier|reduce|rendezvous)))\.py$"
)
# What is called in between, and is no wait by itself.
_BETWEEN = re.compile(
    r"torch/(_ops|utils/_contextlib|_dynamo/eval_frame|_library/custom_ops)\.py$|/contextlib\.py$|/socket\.py$"
)
# Functions of these files by which people know a wait.
_OPERATIONS = re.compile(
    r"_?(all_reduce|all_gather\w*|reduce_scatter\w*|reduce|gather\w*|scatter\w*|broadcast\w*|all_to_all\w*|barrier"
    r"|monitored_barrier|send\w*|i?recv\w*|batch_isend_irecv|init_process_group|new_group|_store_based_barrier"
    r"|rendezvous|wait|get|multi_get|leave|meet|join|destroy_process_group|dispatch|combine)$"
)
# Of ours, what a function waits for.
_OURS = {
    ("lockstep", "result"): "broadcast", ("lockstep", "share"): "broadcast", ("lockstep", "gather"): "all_gather",
    ("replicas", "leave"): "the end of the other ranks", ("replicas", "meet"): "the start of the other ranks",
    ("meeting", "leave"): "the end of the other ranks", ("meeting", "end"): "the end of the other ranks",
    ("meeting", "meet"): "the start of the other ranks", ("context", "barrier"): "ctx.barrier",
    ("client", "ask"): "the job's store", ("client", "get"): "the job's store", ("torch_store", "_wait"): "store wait",
}  # fmt: skip
# A wait by a handle, as of an asynchronous collective: there the innermost line is the user's own.
_HANDLE = re.compile(r"\.(wait|synchronize|monitored_barrier)\(")
_BARRIER = "/vllm_hpc/engine/programs/barrier.py"
_NOT_USERS = re.compile(r"/vllm_hpc/|/submitit/|<frozen ")
_FAULTHANDLERS_STACK = re.compile(r"^(?:Current thread|Thread) [^\n]*\n((?:  [^\n]+\n)+)", re.MULTILINE)
_FAULTHANDLERS_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


class Live(NamedTuple):
    """A thread as it is now: its frames, and the interpreter's own, which know the group of a collective."""

    stack: tuple[Frame, ...]
    frames: tuple[FrameType, ...] = ()


def main_thread() -> Live:
    """Where this process's main thread is."""
    return _walk(sys._current_frames().get(threading.main_thread().ident or 0))


def other_threads() -> tuple[Thread, ...]:
    """Where the others are, without the one that asks."""
    here, main = threading.get_ident(), threading.main_thread().ident
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [
        Thread(names.get(ident, "?"), _walk(frame).stack)
        for ident, frame in sys._current_frames().items()
        if ident not in (here, main)
    ]
    return tuple(found[:_MOST_THREADS])


def _walk(frame: FrameType | None) -> Live:
    stack: list[Frame] = []
    frames: list[FrameType] = []
    while frame is not None and len(stack) < _DEEPEST:
        file = frame.f_code.co_filename.encode(errors="backslashreplace").decode()  # any bytes may be in a name
        stack.append(Frame(file, frame.f_lineno or 0, frame.f_code.co_name))
        frames.append(frame)
        frame = frame.f_back
    return Live(tuple(stack), tuple(frames))


def parse(text: str) -> tuple[tuple[Frame, ...], tuple[Thread, ...]]:
    """The main thread's stack, and the others', from faulthandler's words. The main thread's is the last."""
    stacks = [
        tuple(
            Frame(file, int(line), function) for file, line, function in _FAULTHANDLERS_FRAME.findall(found)[:_DEEPEST]
        )
        for found in _FAULTHANDLERS_STACK.findall(text)
    ]
    if not stacks:
        return (), ()
    return stacks[-1], tuple(Thread("?", stack) for stack in stacks[:-1][:_MOST_THREADS])


def collective_of(live: Live, first_rank: int = 0, reads_source: bool = True) -> Collective | None:
    """What a thread waits for others in; None if it does not wait.

    ``first_rank``: the global rank of torch's rank 0. ``reads_source``: also look at the innermost line's text, for a
    wait by a handle.
    """
    stack = live.stack
    depth = next((number for number, frame in enumerate(stack) if not _BETWEEN.search(frame.file)), len(stack))
    end = depth
    while end < len(stack) and (_WAITS.search(stack[end].file) or _BETWEEN.search(stack[end].file)):
        end += 1
    inside, site = stack[depth:end], stack[end] if end < len(stack) else None
    if operation := _operation(inside):
        group, members, sequence = _group(live.frames[:end], first_rank)
        return Collective(operation=operation, site=site, group=group, members=members, sequence=sequence)
    may_wait = reads_source and stack and "torch" in sys.modules
    if may_wait and _HANDLE.search(linecache.getline(stack[0].file, stack[0].line)):
        return Collective(operation="wait", site=stack[0])
    return None


def _operation(inside: Sequence[Frame]) -> str:
    """The name that the outermost function of these has among people; of ours, what it waits for."""
    for frame in reversed(inside):
        is_ours = "vllm_hpc/" in frame.file
        ours = _OURS.get((frame.file.rsplit("/", 1)[-1].removesuffix(".py"), frame.function))
        if is_ours and ours:
            return ours
        if not is_ours and _OPERATIONS.match(frame.function):
            return frame.function.lstrip("_")
    return ""


def _group(frames: Sequence[FrameType], first_rank: int) -> tuple[str, tuple[int, ...], int | None]:
    """The group's name, its members' global ranks, and the number of its collectives so far."""
    module: Any = sys.modules.get("torch.distributed.distributed_c10d")
    if module is None or not frames:
        return "", (), None
    with suppress(Exception):  # torch's inner names; without them the stack still tells
        group = _named_group(frames) or module.group.WORLD
        members = tuple(first_rank + rank for rank in module.get_process_group_ranks(group))
        return str(group.group_name), members, _sequence(group)
    return "", (), None


def _named_group(frames: Sequence[FrameType]) -> Any:
    for frame in reversed(frames):
        names = frame.f_code.co_varnames
        if "group" in names:
            return frame.f_locals.get("group")
        if frame.f_code.co_name in ("result", "share", "gather") and "lockstep" in frame.f_code.co_filename:
            return getattr(frame.f_locals.get("self"), "_group", None)
    return None


def _sequence(group: Any) -> int | None:
    try:
        return int(group._get_sequence_number_for_group())
    except Exception:  # noqa: BLE001 - a backend without numbers raises what it likes
        return None


def gave_up_at(error: BaseException) -> Collective | None:
    """Where the user's code called the ``ctx.barrier`` that has raised ``error``; None if it was none."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not _NOT_USERS.search(frame.filename)]
    if not users or not any(frame.filename.endswith(_BARRIER) for frame in frames):
        return None
    return Collective(
        operation="ctx.barrier",
        site=Frame(
            users[-1].filename.encode(errors="backslashreplace").decode(), users[-1].lineno or 0, users[-1].name
        ),
    )


def sequences() -> tuple[int | None, ...]:
    """How many collectives each of torch's groups has begun: of a rank that gets on, they change."""
    module: Any = sys.modules.get("torch.distributed.distributed_c10d")
    with suppress(Exception):  # torch's inner names
        return tuple(_sequence(group) for group in module._world.pg_map) if module else ()
    return ()
