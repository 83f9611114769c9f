"""What the rank loop asks of an engine, and a rank of what makes one: vLLM's (vllm_engine.py) or a rehearsal's.

Neither this file nor the loop imports vllm: a rehearsal runs where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row

if TYPE_CHECKING:
    from vllm_hpc.engine.health.rank_record import RankReport
    from vllm_hpc.engine.rows.detokenize import TextMaker
    from vllm_hpc.engine.rows.reasoning import ReasoningSplit
    from vllm_hpc.engine.startup.replicas import Replica


class Ready(msgspec.Struct, frozen=True):
    """A row that can be admitted: what the engine takes for it, in vLLM's words.

    ``text`` makes its text once it has ended, None where the engine does. ``split`` takes the reasoning off a text,
    None where the row has none to take off; ``created`` is the job's time.
    """

    row: Row
    prompt: Any
    params: Any
    lora: Any = None
    text: TextMaker | None = None
    split: ReasoningSplit | None = None
    created: int = 0


class Engine(Protocol):
    """The engine of one rank. A context: the loop takes its steps within.

    An output of ``step`` has vLLM's shape (vllm/outputs.py, RequestOutput): request_id, finished, prompt_token_ids,
    outputs, prompt_logprobs.
    """

    @property
    def max_num_seqs(self) -> int:
        """The most sequences that run at once, the same on all ranks of a replica."""

    def request_maker(self, record: JobRecord, writes: bool) -> Callable[[Row], Ready]:
        """What makes rows ready, on a thread beside the steps; ``writes``: whether this rank writes the answers.

        Raises at once where the job's own sampling is wrong, and for a row whatever is wrong with it.
        """

    def add_request(self, key: str, ready: Ready) -> None:
        """Admit a row under a key of its own. Raises what is wrong with it."""

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """One step's outputs, and whether ``work`` was done within it, while the device computed."""

    def answer(self, ready: Ready, output: Any, replica: int) -> Row:
        """The row out of a finished request."""

    def failure(self, row: Row, error: Exception) -> Row:
        """The row out of a row that cannot be run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class EngineMaker(Protocol):
    """Makes the engine of one rank; made itself before torch is imported, so that it can set what that reads."""

    def load(self, report: RankReport) -> None:
        """Import the engine's libraries; ``report`` gets their versions, and the seconds."""

    def join(self, store: Any) -> Replica:
        """Initialise torch.distributed over this rank's replica; ``store`` is that of its torchrun world."""

    def make(self, report: RankReport) -> Engine:
        """Start the engine, which loads the model; ``report`` gets the device, and the seconds of the start's parts."""

    def release(self, store: Any) -> None:
        """The loop is over and its digests agree: let go of what waits for it."""
