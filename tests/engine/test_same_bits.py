"""--reproducible: sums keep one order, whatever the batch and however many ranks a product is cut over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.marks import needs_vllm
from vllm_hpc.engine.startup import reproducible

pytestmark = pytest.mark.programs


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes row-parallel layers without an engine; vLLM's class is restored afterwards."""
    import torch
    from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod

    from vllm_hpc.engine.vllm_patches import same_bits

    monkeypatch.setattr(RowParallelLinear, "forward", RowParallelLinear.forward)  # so that it is put back
    same_bits.rows_by_tree()
    of_torch = torch.nn.Module.__setattr__

    def make(weight: Any, ranks: int, columns: int, **others: Any) -> Any:
        layer = RowParallelLinear.__new__(RowParallelLinear)
        torch.nn.Module.__init__(layer)
        given = {
            "input_size": columns, "tp_size": ranks, "tp_rank": 0, "input_is_parallel": True, "reduce_results": True,
            "quant_method": UnquantizedLinearMethod(), "bias": None, "skip_bias_add": False, "return_bias": False,
        } | others  # fmt: skip
        for name, value in given.items():
            of_torch(layer, name, value)
        of_torch(layer, "weight", torch.nn.Parameter(weight, requires_grad=False))
        return layer

    yield make


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_product_is_the_same_over_any_number_of_ranks(
    layers: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    import torch

    from vllm_hpc.engine.vllm_patches import same_bits

    torch.manual_seed(0)
    rows, outputs, columns = 5, 24, 1024
    hidden = torch.randn(rows, columns).bfloat16()
    weight = torch.randn(outputs, columns).bfloat16()
    whole = layers(weight, 1, columns).forward(hidden)
    # Each rank's part first, as an all-gather would bring it to all of them.
    parts = zip(hidden.chunk(ranks, dim=1), weight.chunk(ranks, dim=1), strict=True)
    sums = [torch.ops.vllm_hpc.tree_rows(one.contiguous(), w.contiguous(), 8 // ranks) for one, w in parts]
    monkeypatch.setattr(same_bits, "tensor_model_parallel_all_gather", lambda _, dim: torch.cat(sums, dim=dim))
    layer = layers(weight.chunk(ranks, dim=1)[0].contiguous(), ranks, columns)
    assert torch.equal(layer.forward(hidden.chunk(ranks, dim=1)[0].contiguous()), whole)
    # Near what one product gives, but not by chance the same: its sum has another order.
    plain = torch.nn.functional.linear(hidden.float(), weight.float())
    assert torch.allclose(whole.float(), plain, atol=0.5, rtol=0.02)
    assert not torch.equal(whole, torch.nn.functional.linear(hidden, weight))


@needs_vllm
@pytest.mark.vllm
def test_a_bias_is_added_once_and_returned_where_it_is_asked_for(layers: Callable[..., Any]) -> None:
    import torch

    weight, hidden, bias = torch.ones(4, 128), torch.ones(2, 128), torch.arange(4.0)
    assert torch.equal(layers(weight, 1, 128, bias=bias).forward(hidden), torch.full((2, 4), 128.0) + bias)
    product, told = layers(weight, 1, 128, bias=bias, skip_bias_add=True, return_bias=True).forward(hidden)
    assert torch.equal(product, torch.full((2, 4), 128.0))
    assert told is bias
    assert layers(weight, 1, 128, return_bias=True).forward(hidden)[1] is None


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize(
    "given",
    [
        {"quant_method": SimpleNamespace(apply=lambda *_: "vLLM's own")},
        {"input_size": 8 * 15 + 4, "quant_method": SimpleNamespace(apply=lambda *_: "vLLM's own")},
    ],
)
def test_other_layers_stay_vllms(layers: Callable[..., Any], given: dict[str, Any]) -> None:
    import torch

    assert layers(torch.ones(4, 128), 1, 128, **given).forward(torch.ones(2, 128)) == "vLLM's own"


@needs_vllm
@pytest.mark.vllm
def test_a_norm_adds_the_residual_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from vllm.model_executor.layers import layernorm

    from vllm_hpc.engine.vllm_patches import same_bits

    seen: list[Any] = []

    def plain(hidden: Any, weight: Any, eps: float, residual: Any = None) -> Any:
        assert residual is None
        seen.append((hidden, weight, eps))
        return hidden * 2

    monkeypatch.setattr(layernorm, "rms_norm_batch_invariant", plain)
    same_bits.steady_norms()
    ones, weight = torch.ones(2, 4), torch.ones(4)
    out, total = layernorm.rms_norm_batch_invariant(ones, weight, 1e-5, residual=ones)
    assert torch.equal(total, ones * 2)
    assert torch.equal(out, ones * 4)
    assert torch.equal(layernorm.rms_norm_batch_invariant(ones, weight, 1e-5), ones * 2)
    assert [eps for _, _, eps in seen] == [1e-5, 1e-5]


@pytest.mark.parametrize(
    ("given", "has_mla", "found"),
    [
        ({}, False, {"attention_backend": "TRITON_ATTN", "compilation_config": {"custom_ops": ["+rms_norm"]}}),
        ({}, True, {"compilation_config": {"custom_ops": ["+rms_norm"]}}),
        (
            {"attention_backend": "FLASH_ATTN", "compilation_config": {"pass_config": {}, "custom_ops": ["none"]}},
            False,
            {"compilation_config": {"pass_config": {}, "custom_ops": ["none", "+rms_norm"]}},
        ),
        ({"attention_config": {"backend": "FLASH_ATTN"}, "compilation_config": {"custom_ops": ["all"]}}, False, {}),
        ({"attention_backend": "FLASH_ATTN", "compilation_config": {"custom_ops": ["-rms_norm"]}}, False, {}),
        ({"attention_backend": "FLASH_ATTN", "compilation_config": 3}, False, {}),
    ],
)
def test_engine_arguments_leave_what_the_job_says(given: dict[str, Any], has_mla: bool, found: dict[str, Any]) -> None:
    assert reproducible.arguments(given, has_mla) == found
