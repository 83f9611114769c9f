"""--verify: what the ranks of a replica say of the first step in which they sampled different tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tests.marks import needs_torch

pytestmark = [needs_torch, pytest.mark.programs]


class Group:
    """Ranks of a replica in one process: what each gave, by the call, and what the others are taken to have given."""

    def __init__(self, *others: Callable[[bytes], bytes]) -> None:
        self.others = others

    def gather(self, value: bytes) -> list[bytes]:
        return [value, *(other(value) for other in self.others)]


class Engine:
    """Samples what it is told to, a step at a time."""

    max_num_seqs = 8

    def __init__(self, steps: Sequence[dict[str, list[int]]]) -> None:
        self.steps, self.has_left = list(steps), False

    def look(self) -> None:
        return None

    def watch(self, told: Callable[[str, Sequence[int]], None]) -> None:
        self.told = told

    def step(self, work: Any) -> tuple[list[Any], bool]:
        for key, tokens in self.steps.pop(0).items():
            self.told(key, tokens)
        return [], False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.has_left = True


def report() -> Any:
    return SimpleNamespace(enter=lambda *_: None, mark=None)


def ranks(*steps: dict[tuple[int, int], tuple[int, ...]]) -> list[Any]:
    from vllm_hpc.engine.loop.verify import Sampled

    return [Sampled(step, *key, tokens) for step, found in enumerate(steps, 1) for key, tokens in found.items()]


ONE, TWO = {(7, 0): (1,), (8, 0): (2,)}, {(7, 0): (3,), (8, 0): (4,)}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([(ONE, TWO), (ONE, {(7, 0): (3,), (8, 0): (5,)})],
         "at step 2: rank 1 differs from rank 0 in row 8 (token 5 instead of 4)"),
        ([(ONE, {(7, 0): (9,), (8, 0): (4,)}), (ONE, TWO), (ONE, TWO)],
         "at step 2: rank 0 differs from ranks 1, 2 in row 7 (token 9 instead of 3)"),
        ([(ONE, TWO), (ONE, {(7, 0): (3,)})],
         "at step 2: rank 1 differs from rank 0 in row 8 (token nothing instead of 4)"),
        ([(ONE, TWO), ({(7, 0): (1, 6), (8, 0): (0,)}, TWO)],
         "at step 1: rank 1 differs from rank 0 in rows 7, 8 (token 1, 6 instead of 1)"),
        ([(ONE,), (ONE, TWO)], "at step 2: rank 1 differs from rank 0 in rows 7, 8 (token 3 instead of nothing)"),
        ([({(-1, 0): (1,)},), ({(-1, 0): (2,)},)],
         "at step 1: rank 1 differs from rank 0 in the probe (token 2 instead of 1)"),
        ([({(row, 0): (0,) for row in range(9)},), ({(row, 0): (1,) for row in range(9)},)],
         "at step 1: rank 1 differs from rank 0 in rows 0, 1, 2, 3 and 5 more (token 1 instead of 0)"),
        ([(ONE, TWO)] * 2,
         "before step 4: more was sampled since the last comparison than is kept: use fewer STEPS"),
    ],
)  # fmt: skip
def test_the_first_step_that_differs_is_named_with_ranks_and_rows(seen: Any, said: str) -> None:
    from vllm_hpc.engine.loop.verify import explain

    assert explain(0, [ranks(*one) for one in seen], 4) == f"the ranks of replica 0 diverged {said}"


def verified(steps: Sequence[dict[str, list[int]]], every: int, *others: Callable[[bytes], bytes]) -> Any:
    from vllm_hpc.engine.loop.verify import verified as wrap

    group: Any = Group(*others)
    engine: Any = Engine(steps)
    return wrap(engine, group, report(), 3, every)


STEPS = [{"5": [1], "0_6-1f": [2], "1_6-2e": [3]}, {"5-77": [4]}, {"probe": [5]}]


def test_equal_ranks_go_on_and_the_ids_that_vllm_makes_up_do_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    compared: list[bytes] = []

    def alike(value: bytes) -> bytes:
        compared.append(value)
        return value

    engine = verified(STEPS, 2, alike)
    with engine:
        for _ in STEPS:
            engine.step(lambda: None)
    assert len(compared) == 2  # after the second step, and at the end
    assert capsys.readouterr().out == "vllm-hpc: --verify: all ranks agree, by 2 comparisons\n"
    assert engine._engine.has_left


def test_a_difference_ends_all_ranks_at_the_comparison() -> None:
    from vllm_hpc.engine.loop.lockstep import DivergedError

    def other(value: bytes) -> bytes:
        if len(value) == 16:
            return b"another"
        token = (2).to_bytes(8, "little")
        return value.replace(token, (9).to_bytes(8, "little")) if len(value) > 16 else value

    engine = verified(STEPS[:2], 2, other)
    engine.step(lambda: None)
    with pytest.raises(
        DivergedError, match=r"replica 3 diverged at step 1: rank 1 differs from rank 0 in row 6 \(token 9"
    ):
        engine.step(lambda: None)


def test_nothing_is_compared_after_an_error() -> None:
    def never(value: bytes) -> bytes:
        raise AssertionError

    with pytest.raises(ZeroDivisionError), verified(STEPS, 9, never) as engine:
        engine.step(lambda: 1 / 0)
        raise ZeroDivisionError
    assert engine._engine.has_left


def test_without_it_the_engine_is_the_engine_itself() -> None:
    from vllm_hpc.engine.loop.verify import verified as wrap

    nothing: Any = object()
    assert wrap(nothing, nothing, nothing, 0, None) is nothing


def test_more_than_is_kept_stays_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_hpc.engine.loop import verify

    whole, folded = verify.TokenLog(), verify.TokenLog()
    for step in range(9):
        whole.add(step, "1", [step])
    monkeypatch.setattr(verify, "_MOST_KEPT", 10)
    for step in range(9):
        folded.add(step, "1", [step])
    assert len(folded.numbers) < len(whole.numbers)
    assert folded.digest() == whole.digest()
