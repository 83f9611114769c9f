"""An engine's steps with this rank's own work inside: a batch is launched, and the GPU computes meanwhile.

vLLM keeps two batches in flight (asynchronous scheduling, pipeline stages): a step launches the second, and waits for
the first. A rank's work between two steps - handing over, agreeing on and admitting rows - made the GPU wait when many
rows ended at once (docs/performance.md). Between the launch and the wait, nothing waits for that work.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from vllm_hpc.engine.vllm_patches import is_on
from vllm_hpc.engine.vllm_patches.replace import replaced

if TYPE_CHECKING:
    from vllm import LLMEngine


class Overlap:
    """Takes the steps of one engine. A context manager: inside it, vLLM waits for a batch through this."""

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._work: Callable[[], None] | None = None
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        if is_on("step-overlap") and not needless(self._engine):
            executor = _core(self._engine).model_executor
            for name in ("execute_model", "sample_tokens"):
                launch = self._asked_later(getattr(executor, name))
                self._patches.enter_context(replaced(executor, name, launch))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """Take a step. Returns its outputs, and whether the work was done in it, before it waited for a batch.

        An error of the work is raised here, and leaves the step undone.
        """
        self._work = work
        try:
            return self._engine.step(), self._work is None
        except _WorkFailedError as failed:
            raise failed.error from None

    def _asked_later(self, launch: Callable[..., Any]) -> Callable[..., Any]:
        def launched(*given: Any, non_block: bool = False) -> Any:
            answer = launch(*given, non_block=non_block)
            return _Later(answer, self._do) if non_block else answer

        return launched

    def _do(self) -> None:
        work, self._work = self._work, None
        try:
            if work:
                work()
        except Exception as error:
            raise _WorkFailedError(error) from error


def needless(engine: LLMEngine) -> str:
    """Why this engine's steps have nothing to overlap; "" if they have."""
    core = _core(engine)
    if core is None:
        return "vLLM's scheduler runs in a separate process"
    if getattr(core, "batch_queue", None) is None:
        return "vLLM runs one batch at a time here"  # a step waits for the batch that it launched itself
    return ""


def _core(engine: LLMEngine) -> Any:
    return getattr(getattr(engine, "engine_core", None), "engine_core", None)


class _Later:
    """One of vLLM's futures; its ``result`` does the work first."""

    def __init__(self, future: Any, work: Callable[[], None]) -> None:
        self._future, self._work = future, work

    def result(self, *given: Any, **named: Any) -> Any:
        self._work()
        return self._future.result(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._future, name)


class _WorkFailedError(BaseException):
    """Carries an error of the work past vLLM, which would treat it as the engine's and log the whole batch."""

    def __init__(self, error: Exception) -> None:
        self.error = error
