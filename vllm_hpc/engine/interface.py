"""What the rank loop needs from an engine, and a rank from its maker: vLLM's (vllm_engine.py) or a rehearsal's.

Neither this file nor the loop imports vllm: a rehearsal runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row

if TYPE_CHECKING:
    from vllm_hpc.engine.health.rank_record import RankReport
    from vllm_hpc.engine.rows.detokenize import TextMaker
    from vllm_hpc.engine.rows.reasoning import ReasoningSplit
    from vllm_hpc.engine.rows.tool_calls import ToolReader
    from vllm_hpc.engine.startup.replicas import Replica, World
    from vllm_hpc.engine.store.client import JobStore


class Ready(msgspec.Struct, frozen=True):
    """A row that can be admitted: what the engine gets for it, in vLLM's terms.

    ``text`` makes its text once the row has ended; None if the engine does. ``calls`` reads calls of tools in the
    answer, and its reasoning; None if the row offers none. Without it, ``split`` separates the reasoning from the
    answer; None if the row has no reasoning. ``created`` is the job's time.
    """

    row: Row
    prompt: Any
    params: Any
    lora: Any = None
    text: TextMaker | None = None
    split: ReasoningSplit | None = None
    calls: ToolReader | None = None
    created: int = 0


class InFlight(NamedTuple):
    """The sequences in an engine: how many run and how many wait, and the output tokens of those that have any.

    ``kv``: the used share of the KV cache, 0 to 1; None if it is not known.
    """

    running: int
    waiting: int
    lengths: list[int]
    kv: float | None = None


class Engine(Protocol):
    """The engine of one rank. It is a context manager: the loop steps inside it.

    An output of ``step`` has vLLM's shape (vllm/outputs.py, RequestOutput): request_id, finished, prompt_token_ids,
    outputs, prompt_logprobs.
    """

    @property
    def max_num_seqs(self) -> int:
        """The most sequences that run at once, the same on all ranks of a replica."""

    def request_maker(self, record: JobRecord, writes: bool) -> Callable[[Row], Ready]:
        """A function that makes rows ready, on a separate thread; ``writes``: whether this rank writes answers.

        Raises at once if the job's own sampling is wrong. The function raises whatever is wrong with a row.
        """

    def add_request(self, key: str, ready: Ready) -> None:
        """Admit a row under its own key. Raises whatever is wrong with it."""

    def watch(self, told: Callable[[str, Sequence[int]], None]) -> None:
        """Have every step tell what it sampled: the engine's id of a request, and its new tokens (--verify)."""

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """Take one step. Returns its outputs, and whether it did ``work`` while the device computed."""

    def idle_step(self) -> None:
        """Take a step without rows, beside other lanes of the replica that have some."""

    def look(self) -> InFlight | None:
        """What is in flight between two steps; None if that is not known. It is asked about once a second."""

    def answer(self, ready: Ready, output: Any, replica: int) -> Row:
        """The output row of a finished request."""

    def failure(self, row: Row, error: Exception) -> Row:
        """The output row of a row that cannot be run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class EngineMaker(Protocol):
    """Makes the engine of one rank. Create it before torch is imported: it sets variables that torch reads."""

    @property
    def llm(self) -> Any:
        """The vllm.LLM that ``make`` made for a program of the user's; None without one, and in a rehearsal."""

    @property
    def leads(self) -> bool:
        """Whether this rank runs the loop; else it only serves."""

    def load(self, report: RankReport) -> None:
        """Import the engine's libraries; ``report`` gets their versions and the seconds it took."""

    def join(self, world: World) -> Replica:
        """Initialise torch.distributed over this rank's replica, a part of its torchrun world."""

    def make(self, report: RankReport) -> Engine:
        """Start the engine, which loads the model; ``report`` gets the device, and the seconds of the start's parts."""

    def serve(self, report: RankReport, job: JobFolder) -> None:
        """Be a rank that runs no loop."""

    def release(self, store: JobStore) -> None:
        """Release whatever waits for the loop, which has ended with equal digests."""
