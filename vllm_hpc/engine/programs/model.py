"""What a program sees of the model on this rank: its decoder layers, and which part of each parameter is here.

vLLM's classes are known by what they have, and not imported: their modules move between versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from vllm_hpc.spec.rank_context import ParameterShard

# Placeholders in vLLM's models for what other pipeline stages have.
_MISSING = ("PPMissingLayer", "StageMissingLayer")
# Names of a multi-modal model's towers, which stand beside its language model.
_TOWERS = ("vis", "audio", "tower", "encoder")

Parts = list[tuple[int, int]]


class _Cut(NamedTuple):
    """How a module's parameters are cut: the dimension of its weight, the parts that are here, and the whole size."""

    dim: int
    parts: Parts
    whole: int


def find_model(llm: Any) -> Any:
    """This rank's model, without the wrapper of CUDA graphs."""
    worker = llm.llm_engine.model_executor.driver_worker
    return getattr(worker, "worker", worker).get_model()


def find_layers(model: Any, count: int | None) -> list[Any]:
    """The decoder layers that are on this rank. ``count``: how many the whole model has, if that is known.

    They are the longest list of modules outside other lists; one of ``count`` modules if there is one.
    """
    lists = {
        name: list(module) for name, module in model.named_modules()
        if type(module).__name__ == "ModuleList" and not any(part.isdigit() for part in name.split("."))
    }  # fmt: skip
    lists = {name: found for name, found in lists.items() if len(found) == count} or lists
    lists = {name: found for name, found in lists.items() if not any(word in name for word in _TOWERS)} or lists
    every = max(lists.values(), key=len, default=[])
    return [layer for layer in every if type(layer).__name__ not in _MISSING]


def shards_of(model: Any, tp_rank: int) -> Iterator[ParameterShard]:
    """Each parameter of this rank's model, with the part of the whole that it is.

    ``tp_rank``: this rank's, where a module does not say its own: an embedding of vLLM 0.26 does not.
    """
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, _, own = name.rpartition(".")
        module = modules.get(path)
        rank = getattr(module, "tp_rank", tp_rank)
        found = _column(module, rank, parameter, own) or _row(module, rank, parameter, own)
        found = found or _experts(module, parameter, own)
        dim, parts, whole = found or (None, [], 0)
        yield ParameterShard(name, parameter, dim, tuple(parts), whole)


def _column(module: Any, rank: int, parameter: Any, own: str) -> _Cut | None:
    """Of a module whose outputs, or whose vocabulary, are divided among the ranks."""
    if hasattr(module, "num_embeddings_per_partition"):
        sizes, here = [module.num_embeddings_padded], module.num_embeddings_per_partition
    elif hasattr(module, "output_size_per_partition"):
        sizes, here = _outputs(module), module.output_size_per_partition
    else:
        return None
    if module.tp_size == 1 or here == sum(sizes):
        return None
    dim = getattr(parameter, "output_dim", 0 if own in ("weight", "bias") else None)
    return _scaled(parameter, dim, _parts(module, rank, sizes), sum(sizes))


def _row(module: Any, rank: int, parameter: Any, own: str) -> _Cut | None:
    """Of a module whose inputs are divided: its bias is whole on each rank."""
    here, whole = getattr(module, "input_size_per_partition", 0), getattr(module, "input_size", 0)
    if here == whole or own == "bias":
        return None
    dim = getattr(parameter, "input_dim", 1 if own == "weight" else None)
    return _scaled(parameter, dim, [(rank * here, (rank + 1) * here)], whole)


def _experts(module: Any, parameter: Any, own: str) -> _Cut | None:
    """Of a mixture's experts: divided among the ranks (expert parallelism), or each of them is."""
    config: Any = getattr(module, "moe_config", None)
    parallel: Any = getattr(config, "moe_parallel_config", None)
    if parallel is None or own not in ("w13_weight", "w2_weight") or parameter.ndim != 3:
        return None
    if parallel.use_ep:
        each, more = divmod(config.num_experts, parallel.ep_size)
        first = parallel.ep_rank * each + min(parallel.ep_rank, more)
        return _Cut(0, [(first, first + parameter.shape[0])], config.num_experts)
    if parallel.tp_size == 1:
        return None
    here = module.w2_weight.shape[2]
    whole, first = here * parallel.tp_size, here * parallel.tp_rank
    if own == "w2_weight":
        return _Cut(2, [(first, first + here)], whole)
    count = parameter.shape[1] // here  # gate and up, or up alone
    return _Cut(1, [(one * whole + first, one * whole + first + here) for one in range(count)], count * whole)


def _outputs(module: Any) -> list[int]:
    """The sizes of the matrices that are kept as one; of keys and values without what ranks have twice."""
    sizes = list(getattr(module, "output_sizes", None) or [module.output_size])
    replicas = getattr(module, "num_kv_head_replicas", 1)
    return [size // replicas if place in (1, 2) else size for place, size in enumerate(sizes)]


def _parts(module: Any, rank: int, sizes: Sequence[int]) -> Parts:
    """The ranges of the whole that are here, in the order in which they are here."""
    found, first = list[tuple[int, int]](), 0
    for place, size in enumerate(sizes):
        replicas = getattr(module, "num_kv_head_replicas", 1) if place in (1, 2) else 1
        here = size * replicas // module.tp_size
        begin = first + rank // replicas * here
        found.append((begin, begin + here))
        first += size
    return found


def _scaled(parameter: Any, dim: int | None, parts: Parts, whole: int) -> _Cut | None:
    """In the parameter's own units: of packed weights, and of scales for blocks, one stands for several.

    None if the parameter is not cut, or is kept in another form. One without elements has its weights in a kernel's
    form elsewhere, as on the CPU.
    """
    here = sum(end - begin for begin, end in parts)
    if dim is None:
        return None
    if not parameter.numel():
        return _Cut(dim, parts, whole)
    scale = Fraction(parameter.shape[dim] if dim < parameter.ndim else 0, here)
    scaled = [(begin * scale, end * scale) for begin, end in parts]
    if not scale or any(one.denominator > 1 for part in scaled for one in part):
        return None
    return _Cut(dim, [(int(begin), int(end)) for begin, end in scaled], int(whole * scale))
