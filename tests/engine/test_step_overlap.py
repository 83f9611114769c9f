"""Work in the middle of a step: over an engine that has two batches under way, stepped by vLLM's own code."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hpc.engine.vllm_patches.step_overlap import Overlap

pytestmark = [pytest.mark.timeout(120), pytest.mark.vllm]


@pytest.fixture(scope="module", autouse=True)
def steps() -> None:
    """A core's step is vLLM's own. It imports vLLM, which takes its time: only where these tests run."""
    pytest.importorskip("vllm")
    from vllm.v1.engine.core import EngineCore

    Core.step = EngineCore.step_with_batch_queue


class Batch(Future[Any]):
    """Tells when it is waited for."""

    def __init__(self, told: list[str], number: int) -> None:
        super().__init__()
        self._told, self._number = told, number
        self.set_result(number)

    def result(self, timeout: float | None = None) -> Any:
        self._told.append(f"wait {self._number}")
        return super().result(timeout)


class Core:
    """What ``EngineCore.step_with_batch_queue`` asks for, with so many batches to run."""

    step: Any
    is_ec_consumer, is_mm_encoder_only, is_pooling_model = True, False, False
    _attach_iteration_details = _attach_weight_version = _process_aborts_queue = lambda *_: None
    _should_throttle_prefills = lambda *_: False  # noqa: E731

    def __init__(self, batches: int) -> None:
        self.told: list[str] = []
        self.left, self.number = batches, 0
        self.batch_queue: Any = deque[Any]()
        self.batch_queue_size = 2
        self.scheduler = self.model_executor = self

    def has_requests(self) -> bool:
        return self.left > 0

    def schedule(self, _: bool) -> Any:
        self.left -= 1
        self.number += 1
        return SimpleNamespace(total_num_scheduled_tokens=1, pending_structured_output_tokens=False)

    def get_grammar_bitmask(self, _: Any) -> None:
        return None

    def execute_model(self, _: Any, non_block: bool = False) -> Batch:
        return Batch(self.told, self.number)

    def sample_tokens(self, _: Any, non_block: bool = False) -> Batch:
        self.told.append(f"launch {self.number}")
        return Batch(self.told, self.number)

    def update_from_output(self, _: Any, number: int) -> int:
        self.told.append(f"update {number}")
        return number

    @contextmanager
    def log_error_detail(self, _: Any) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.told.append("taken for the engine's")
            raise

    @contextmanager
    def capture_iteration_details(self, _: Any) -> Iterator[None]:
        yield


def engine_of(core: Any) -> Any:
    return SimpleNamespace(engine_core=SimpleNamespace(engine_core=core), step=lambda: [core.step()[0]])


def test_the_work_is_done_after_the_next_batch_is_launched_and_before_the_last_is_waited_for() -> None:
    core = Core(3)
    with Overlap(engine_of(core)) as overlap:
        done = [overlap.step(lambda: core.told.append("work")) for _ in range(4)]
    assert core.told == [
        "launch 1", "launch 2", "work", "wait 1", "update 1", "launch 3", "work", "wait 2", "update 2", "work",
        "wait 3", "update 3",
    ]  # fmt: skip
    assert done == [([None], False), ([1], True), ([2], True), ([3], True)]


def test_outside_of_it_vllm_waits_as_ever() -> None:
    core = Core(2)
    own = core.execute_model, core.sample_tokens
    with Overlap(engine_of(core)):
        assert own != (core.execute_model, core.sample_tokens)
    assert own == (core.execute_model, core.sample_tokens)


def test_what_is_waited_for_is_a_future_in_all_else_too() -> None:
    core = Core(2)
    with Overlap(engine_of(core)):
        answer = core.execute_model(None, non_block=True)
        assert answer.done()
        assert answer.result(timeout=5) == core.number
        assert answer.exception() is None
        assert core.execute_model(None).done()


def test_an_error_of_the_work_is_not_the_engines() -> None:
    core = Core(2)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with Overlap(engine_of(core)) as overlap:
        assert overlap.step(fail) == ([None], False)
        with pytest.raises(OSError, match="No space left"):
            overlap.step(fail)
    assert core.told == ["launch 1", "launch 2"]


def test_an_error_of_the_engine_is_its_own() -> None:
    core = Core(2)
    core.update_from_output = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    with Overlap(engine_of(core)) as overlap:
        overlap.step(lambda: None)
        with pytest.raises(ZeroDivisionError):
            overlap.step(lambda: None)


def test_with_one_batch_at_a_time_the_work_is_left_for_after_the_step() -> None:
    core = Core(1)
    core.batch_queue = None
    engine: Any = SimpleNamespace(engine_core=SimpleNamespace(engine_core=core), step=lambda: ["output"])
    with Overlap(engine) as overlap:
        assert overlap.step(lambda: core.told.append("work")) == (["output"], False)
    assert core.told == []
