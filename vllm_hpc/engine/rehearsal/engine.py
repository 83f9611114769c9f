"""The engine of a rehearsal: answers rows with a digest of their own text, in steps, without a model or vLLM.

Everything around it is real: torchrun, the store, gloo, and the loop with its lockstep, claims, drain and durable rows.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from vllm_hpc import __version__
from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.interface import InFlight, Ready
from vllm_hpc.engine.rehearsal.faults import FaultPlan
from vllm_hpc.engine.rehearsal.rows import RehearsalRows
from vllm_hpc.engine.rows import row_out
from vllm_hpc.engine.standing import Standing
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.node_report import VARIABLE
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import REHEARSED, Row
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Place
from vllm_hpc.spec.rehearsal import Rehearsal
from vllm_hpc.spec.vllm_defaults import whole

if TYPE_CHECKING:
    from vllm_hpc.engine.rehearsal.together import Together
    from vllm_hpc.engine.startup.replicas import Replica, World
    from vllm_hpc.engine.store.client import JobStore

# vLLM's own default.
_MAX_NUM_SEQS = 256
# The longest step at a slow pace, in seconds: ranks hear of a drain every few steps.
_STEP_S = 0.25
_EMBEDDING = 8


class Completion(NamedTuple):
    """One output of a row, in the shape of vLLM's CompletionOutput."""

    text: str
    token_ids: array[int]
    finish_reason: str = "length"
    stop_reason: None = None
    logprobs: None = None


class Embedding(NamedTuple):
    """An embedding, in the shape of vLLM's PoolingOutput."""

    data: array[float]


class Output(NamedTuple):
    """A finished request, in the shape of vLLM's RequestOutput."""

    request_id: str
    prompt_token_ids: range
    outputs: list[Completion] | Embedding
    finished: bool = True
    prompt_logprobs: None = None


class RehearsalEngine:
    """Every running sequence gets one token per step, ``max_num_seqs`` of them at once; the others wait in order.

    At a slow pace a token takes several steps, the same number on all ranks. ``together``: what all lanes of a replica
    do in each step; None if it has one.
    """

    def __init__(
        self, record: JobRecord, settings: Rehearsal, faults: FaultPlan, together: Together | None = None
    ) -> None:
        self.max_num_seqs = whole(record.plan.engine.get("max_num_seqs"), _MAX_NUM_SEQS)
        self._rate, self._faults, self._together = settings.tokens_per_s, faults, together
        self._waiting: deque[tuple[str, Ready]] = deque()
        # Requests by the step in which they end, and how many sequences run.
        self._ends: dict[int, list[tuple[str, Ready]]] = {}
        self._begins: dict[str, int] = {}
        self._running = self._step = 0
        # With --verify: who is told of tokens, and for each running output its tokens and the step of the first.
        self._told: Callable[[str, Sequence[int]], None] | None = None
        self._watched: dict[str, tuple[array[int], int]] = {}
        self._due = time.perf_counter()
        slowest = self.max_num_seqs / self._rate if self._rate else 0.0
        self._steps_a_token = max(1, math.ceil(slowest / _STEP_S))

    def request_maker(self, record: JobRecord, writes: bool) -> Callable[[Row], Ready]:
        """Checks rows and measures their prompts. Only a rank that writes makes texts, on the writer's thread."""
        return RehearsalRows(record, _text if writes else None)

    def add_request(self, key: str, ready: Ready) -> None:
        """Admit a row."""
        self._waiting.append((key, ready))

    def watch(self, told: Callable[[str, Sequence[int]], None]) -> None:
        """Have every step tell its tokens, under the ids that vLLM gives to one of several outputs."""
        self._told = told

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """One token for each running sequence. Leaves ``work`` to the caller, because no device computes meanwhile."""
        self._step += 1
        started = self._start_waiting()
        self._faults.strike(started)
        self._tell()
        if self._together:
            self._together.step()
        self._pace()
        outputs = []
        for key, ready in self._ends.pop(self._step, ()):
            del self._begins[key]
            self._running -= ready.params.n
            outputs.append(self._output(key, ready))
        return outputs, False

    def idle_step(self) -> None:
        """Take a step with the other lanes, and no row."""
        self._faults.strike([])
        if self._together:
            self._together.step()

    def look(self) -> InFlight:
        """What runs, and what waits. There is no KV cache."""
        lengths: list[int] = []
        for key, ready in chain.from_iterable(self._ends.values()):
            tokens = 0 if ready.params.embeds else (self._step - self._begins[key] + 1) // self._steps_a_token
            lengths += [tokens] * (ready.params.n if tokens else 0)
        return InFlight(self._running, sum(ready.params.n for _, ready in self._waiting), lengths)

    def answer(self, ready: Ready, output: Any, replica: int) -> Row:
        """The output row, marked as a rehearsal's; so is the line of an OpenAI batch."""
        return _marked(row_out.answer(ready, output, replica))

    def failure(self, row: Row, error: Exception) -> Row:
        """The output row of a row that cannot be run, marked likewise."""
        return _marked(row_out.failure(row, error))

    def __enter__(self) -> Self:
        self._due = time.perf_counter()
        self._faults.begin()
        return self

    def __exit__(self, *_: object) -> None:
        """The loop is over."""
        self._faults.end()

    def _start_waiting(self) -> list[str]:
        """Start the rows that there is room for, and return their keys."""
        started = []
        while self._waiting and (
            not self._running or self._running + self._waiting[0][1].params.n <= self.max_num_seqs
        ):
            key, ready = self._waiting.popleft()
            self._running += ready.params.n
            last = self._step + max(1, ready.params.max_tokens) * self._steps_a_token - 1
            self._ends.setdefault(last, []).append((key, ready))
            self._begins[key] = self._step
            started.append(key)
            if self._told and not ready.params.embeds:
                for number in range(ready.params.n):
                    tokens = tokens_of(ready.row, number, ready.params.max_tokens)
                    self._watched[f"{number}_{key}"] = (tokens, self._step)
        return started

    def _tell(self) -> None:
        """Tell the tokens of this step; a rank that must diverge tells others."""
        if self._told is None:
            return
        for name, (tokens, first) in list(self._watched.items()):
            place, waits = divmod(self._step - first, self._steps_a_token)
            if waits:
                continue
            self._told(name, self._faults.altered(tokens[place : place + 1], name.partition("_")[2]))
            if place + 1 >= len(tokens):
                del self._watched[name]

    def _pace(self) -> None:
        """Wait for the time that the tokens of this step take at ``tokens_per_s``."""
        if self._rate is not None:
            now = time.perf_counter()
            self._due = max(self._due, now - 1.0) + self._running / (self._rate * self._steps_a_token)
            time.sleep(max(0.0, self._due - now))

    def _output(self, key: str, ready: Ready) -> Output:
        prompt = range(ready.prompt)
        if ready.params.embeds:
            numbers = [token / 65536 for token in tokens_of(ready.row, 0, _EMBEDDING)]
            return Output(key, prompt, Embedding(array("d", numbers)))
        outputs = []
        for number in range(ready.params.n):
            tokens = self._faults.altered(tokens_of(ready.row, number, ready.params.max_tokens), key)
            outputs.append(Completion("", tokens))
        return Output(key, prompt, outputs)


class RehearsalMaker:
    """Makes the engine of a rehearsal; ``is_first``: whether this is the first attempt of its task."""

    leads, llm = True, None

    def __init__(self, record: JobRecord, standing: Standing, place: Place, is_first: bool) -> None:
        self._record, self._standing, self._place, self._is_first = record, standing, place, is_first
        self._settings = record.request.rehearse_set

    def load(self, report: RankReport) -> None:
        """Import torch: the ranks use its store and gloo."""
        with report.timed("import"):
            import torch
            import torch.distributed
        report.versions = {
            "rehearsal": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }

    def join(self, world: World) -> Replica:
        """Join over gloo, which needs no GPU."""
        import torch.distributed as dist

        from vllm_hpc.engine.startup import replicas

        if os.environ.get(VARIABLE):
            from vllm_hpc.engine.doctor.rank import examine

            examine(world, self._standing)
        layout = self._record.plan.layout
        return replicas.join(layout, self._place, world, "gloo", "rehearsal", lambda: dist.group.WORLD)

    def make(self, report: RankReport) -> RehearsalEngine:
        """Take as long as the job asks for."""
        report.device_name = "rehearsal"
        asked = self._record.plan.engine.get("max_num_seqs")
        if asked is not None and not whole(asked, 0):
            raise RequestError(f"--engine max_num_seqs must be a whole number, 1 or more, not {asked!r}")
        time.sleep(self._settings.load_s)
        faults = FaultPlan.of(self._settings, self._standing.global_rank, self._place, self._is_first)
        has_lanes = self._record.plan.layout.attention_dp > 1
        return RehearsalEngine(self._record, self._settings, faults, _together() if has_lanes else None)

    def serve(self, report: RankReport, job: JobFolder) -> None:
        """Never asked: all ranks lead."""
        raise NotImplementedError

    def release(self, store: JobStore) -> None:
        """Nothing waits for it."""


def _together() -> Together:
    from vllm_hpc.engine.rehearsal.together import Together

    return Together()


def tokens_of(row: Row, number: int, count: int) -> array[int]:
    """The tokens of a row's output ``number``, from its own text alone: each 0 to 65535 (SHAKE-128, 2 bytes each)."""
    text = msgspec.json.encode([row.get("messages", row.get("prompt")), number])
    tokens = array("H", hashlib.shake_128(text).digest(2 * count))
    if sys.byteorder == "little":
        tokens.byteswap()
    return tokens


def text_of(tokens: Iterable[int]) -> str:
    """The text of tokens: four hexadecimal digits each."""
    return " ".join([f"{token:04x}" for token in tokens])


def _text(prompt: Any, tokens: array[int], is_stopped: bool, params: Any) -> str:
    return text_of(tokens)


def _marked(row: Row) -> Row:
    """The row with the mark; for an OpenAI batch also the line and its body, which may be read alone."""
    if "line" not in row:
        return {**row, **REHEARSED}
    response = row["line"]["response"]
    body = {**response["body"], **REHEARSED}
    return {**row, **REHEARSED, "line": {**row["line"], **REHEARSED, "response": {**response, "body": body}}}
