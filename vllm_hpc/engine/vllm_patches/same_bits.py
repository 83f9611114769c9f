"""Sums in one order whatever the batch and --tp are, where vLLM's batch-invariant mode lacks it. For --reproducible.

Measured on H200 with vLLM 0.26 (docs/determinism.md): without ``steady-norm``, rows differ between max_num_seqs 256 and
32; without ``tree-rows``, between TP=1 and TP=2.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.communication_op import tensor_model_parallel_all_gather
from vllm.model_executor.layers import layernorm
from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod

# The parts of a row-parallel product, on all ranks together: the tree is the same for --tp 1, 2, 4 and 8.
PARTS = 8
# Triton's products need so many columns in a part (tl.dot).
_LEAST_COLUMNS = 16


def steady_norms() -> None:
    """From now on, RMSNorm with a residual adds it first, then takes the mode's own kernel.

    vLLM 0.26 to 0.32 take ``fused_add_rms_norm`` there, which sums in another order from 256 tokens in a step on.
    """
    plain = layernorm.rms_norm_batch_invariant

    def norm(
        hidden: torch.Tensor, weight: torch.Tensor | None, eps: float = 1e-6, residual: torch.Tensor | None = None
    ) -> Any:
        if residual is None:
            return plain(hidden, weight, eps)
        total = hidden + residual
        return plain(total, weight, eps), total

    layernorm.rms_norm_batch_invariant = norm


def rows_by_tree() -> None:
    """From now on, row-parallel layers add their parts in one binary tree, for any --tp that divides 8.

    A product over K columns is a sum; with --tp each rank has K/tp of them, rounds its part, and the parts are added.
    Here it is always cut into ``PARTS``, and these are added pairwise in float32: the lower levels of the tree on each
    rank, the upper ones after an all-gather ("Deterministic inference across tensor parallel sizes", arXiv 2511.17826).
    """
    plain = RowParallelLinear.forward

    def forward(layer: Any, hidden: torch.Tensor) -> Any:
        if not _has_tree(layer):
            return plain(layer, hidden)
        total = torch.ops.vllm_hpc.tree_rows(hidden, layer.weight, PARTS // layer.tp_size)
        if layer.tp_size > 1:
            every = tensor_model_parallel_all_gather(total, dim=0)
            total = add_pairwise(every.view(layer.tp_size, *total.shape))
        product = total.to(hidden.dtype)
        if layer.bias is not None and not layer.skip_bias_add:
            product = product + layer.bias
        if not layer.return_bias:
            return product
        return product, layer.bias if layer.skip_bias_add else None

    RowParallelLinear.forward = forward


def add_pairwise(parts: torch.Tensor) -> torch.Tensor:
    """The sum over the first dimension, whose size must be a power of two: neighbours first, then their sums."""
    while parts.shape[0] > 1:
        parts = parts[0::2] + parts[1::2]
    return parts[0]


def _has_tree(layer: Any) -> bool:
    columns, odd = divmod(layer.input_size, PARTS)
    return (
        not odd
        and columns >= _LEAST_COLUMNS
        and PARTS % layer.tp_size == 0
        and layer.input_is_parallel
        and layer.reduce_results
        and isinstance(layer.quant_method, UnquantizedLinearMethod)
    )


# One operation for torch.compile, which would fuse the additions and round them elsewhere.
@torch.library.custom_op("vllm_hpc::tree_rows", mutates_args=())
def _tree_rows(hidden: torch.Tensor, weight: torch.Tensor, parts: int) -> torch.Tensor:
    """``hidden`` (rows x columns) times ``weight`` (outputs x columns), in float32, by the tree over ``parts``.

    ``torch.bmm`` is the mode's own kernel, with one order of summing for every size.
    """
    rows, columns = hidden.shape
    cut = hidden.reshape(rows, parts, columns // parts).transpose(0, 1)
    return add_pairwise(torch.bmm(cut, weight.view(-1, parts, columns // parts).permute(1, 2, 0)).float())


@_tree_rows.register_fake
def _(hidden: torch.Tensor, weight: torch.Tensor, parts: int) -> torch.Tensor:
    return hidden.new_empty((hidden.shape[0], weight.shape[0]), dtype=torch.float32)
