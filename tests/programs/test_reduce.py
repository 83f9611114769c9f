"""ctx.all_reduce: what it takes, what it keeps, and what it refuses before a collective could hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.marks import needs_torch

pytestmark = [pytest.mark.programs, needs_torch]


class Alone:
    """The agreement of one rank, or of several of which the others say ``said``."""

    def __init__(self, said: Callable[[bytes], list[bytes]] = lambda mine: [mine]) -> None:
        self.gather = said


def reduction(said: Callable[[bytes], list[bytes]] = lambda mine: [mine], size: int = 1) -> Any:
    from vllm_hpc.engine.programs.reduce import Reduction

    return Reduction(Alone(said), None, None, size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "op", "same"),
    [
        (3, "sum", 3),
        (3, "mean", 3.0),
        (2.5, "max", 2.5),
        (True, "sum", 1),
        (-(2**62), "min", -(2**62)),
        ([1, 2, 3], "sum", [1, 2, 3]),
        ((1, 2.5), "sum", [1.0, 2.5]),
        ({"b": 1, "a": [2, {"c": 3}]}, "sum", {"b": 1, "a": [2, {"c": 3}]}),
        ([], "sum", []),
        ({}, "mean", {}),
        ({1: 2, "1": 3}, "sum", {1: 2, "1": 3}),
        (float("inf"), "max", float("inf")),
    ],
)
def test_numbers_keep_their_form(value: Any, op: str, same: Any) -> None:
    found = reduction().reduce(value, op)
    assert found == same
    assert type(found) is type(same)
    if isinstance(same, dict):
        assert list(found) == list(same)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "int32", "uint8", "bool", "complex64"])
def test_a_tensor_keeps_its_dtype_and_is_another_one(name: str) -> None:
    import torch

    given = torch.ones(2, 3, dtype=getattr(torch, name)).t()
    found = reduction().reduce(given, "sum")
    assert (found.dtype, found.shape) == (given.dtype, given.shape)
    assert found.data_ptr() != given.data_ptr()


def test_a_tensor_made_in_inference_or_with_gradients() -> None:
    import torch

    with torch.inference_mode():
        made = torch.ones(2)
    assert not reduction().reduce(made, "mean").is_inference()
    assert not reduction().reduce(torch.ones(2, requires_grad=True), "max").requires_grad


@pytest.mark.parametrize(
    ("value", "op", "words"),
    [
        ("three", "sum", "takes numbers, lists, tuples and dicts of numbers, or a tensor, not builtins.str"),
        (None, "sum", "not builtins.NoneType"),
        ([1, "2"], "sum", "not builtins.str"),
        ({"a": {1, 2}}, "sum", "not builtins.set"),
        (1 + 2j, "sum", "not builtins.complex"),
        (1, "avg", "op must be one of sum, mean, min, max, not 'avg'"),
        (1, ["sum"], "op must be one of sum, mean, min, max, not \\['sum'\\]"),
        (1, None, "op must be one of sum, mean, min, max, not None"),
        (2**63, "sum", "takes no whole numbers whose result may need over 64 bits"),
        (2**63, "max", "use floats"),
        ([1, -(2**64)], "sum", "use floats"),
    ],
)
def test_what_cannot_be_reduced_is_refused(value: Any, op: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError), match=words):
        reduction().reduce(value, op)


def test_the_mean_of_whole_numbers_in_a_tensor_is_refused() -> None:
    import torch

    with pytest.raises(TypeError, match=r"the mean of torch.int64 keeps no fraction: call float\(\)"):
        reduction().reduce(torch.tensor([1, 2]), "mean")


def test_ranks_with_values_of_other_forms_are_told_before_they_wait_for_each_other() -> None:
    words = r"those of ranks \[1\] are not like rank 0's; this rank's: sum of {\"'a'\": \[0, 0\]}"
    with pytest.raises(ValueError, match=words):
        reduction(lambda mine: [mine, bytes(15) + mine[-1:]], size=2).reduce({"a": [1, 2]}, "sum")


def test_tensors_are_compared_in_the_first_calls_and_with_their_op() -> None:
    import torch

    told: list[bytes] = []

    def gather(mine: bytes) -> list[bytes]:
        told.append(mine)
        return [mine]

    found = reduction(gather)
    for value, op in ((1.0, "sum"), (torch.ones(2), "sum"), (torch.ones(3), "sum"), (torch.ones(2), "max")):
        found.reduce(value, op)
    found.reduce(torch.ones(2, dtype=torch.float64), "sum")
    assert len(set(told)) == 5
    for _ in range(300):
        found.reduce(torch.ones(2), "sum")
    assert len(told) == 256
    words = r"those of ranks \[1\] are not like rank 0's; this rank's: sum of a tensor of torch.float32 \[2\] on cpu"
    with pytest.raises(ValueError, match=words):
        reduction(lambda mine: [mine, bytes(16)], size=2).reduce(torch.ones(2), "sum")


@pytest.mark.parametrize("kind", ["to_sparse", "meta"])
def test_a_tensor_without_values_of_its_own_is_refused(kind: str) -> None:
    import torch

    tensor = torch.ones(2).to_sparse() if kind == "to_sparse" else torch.ones(2, device="meta")
    with pytest.raises(TypeError, match="all_reduce takes dense tensors with values, not a"):
        reduction().reduce(tensor, "sum")


@pytest.mark.parametrize("timeout", [-1, 0, float("nan"), float("inf"), 1e308, 10**400, True, "5", None])
def test_a_barrier_needs_a_time_that_a_socket_takes(timeout: Any) -> None:
    from vllm_hpc.engine.programs.barrier import Barrier

    asked: list[Any] = []

    class Store:
        def under(self, prefix: str) -> Store:
            return self

        def __getattr__(self, name: str) -> Any:
            return asked.append(name)

    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0 and at most 2678400, not"):
        Barrier(Store(), 0, 0, range(2)).wait(timeout)  # type: ignore[arg-type]
    assert not asked


def test_one_rank_with_a_fraction_makes_all_of_them_floats() -> None:
    found = reduction(lambda mine: [mine, mine[:-1] + b"\0"]).reduce(3, "max")
    assert (found, type(found)) == (3.0, float)
