"""Steps of an engine with this rank's own work in the middle: a batch is launched, and the GPU computes meanwhile.

vLLM keeps two batches under way (asynchronous scheduling, pipeline stages): a step launches the second, and waits for
the first. What a rank does between two steps - rows handed over, agreed on, admitted - made the GPU wait where many end
at once (docs/performance.md); between the launch and the wait it makes nothing wait.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

if TYPE_CHECKING:
    from vllm import LLMEngine


class Overlap:
    """Takes the steps of one engine; a context, within which vLLM waits for a batch by way of this."""

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._work: Callable[[], None] | None = None
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        core: Any = getattr(getattr(self._engine, "engine_core", None), "engine_core", None)
        if getattr(core, "batch_queue", None) is not None:  # else a step waits for what it has launched itself
            executor = core.model_executor
            for name in ("execute_model", "sample_tokens"):
                launch = self._asked_later(getattr(executor, name))
                self._patches.enter_context(mock.patch.object(executor, name, launch))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """One step's outputs, and whether the work was done in it: a step that waits for no earlier batch does none.

        What the work raises is raised here, and leaves the step undone.
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


class _Later:
    """A future of vLLM's; whoever asks for its result does the work first."""

    def __init__(self, future: Any, work: Callable[[], None]) -> None:
        self._future, self._work = future, work

    def result(self, *given: Any, **named: Any) -> Any:
        self._work()
        return self._future.result(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._future, name)


class _WorkFailedError(BaseException):
    """Carries an error of the work past vLLM, which would take it for the engine's, and log the whole batch."""

    def __init__(self, error: Exception) -> None:
        self.error = error
