"""Which layers and which parts of parameters a rank has: over modules with the attributes of vLLM's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from tests.marks import needs_torch

pytestmark = [pytest.mark.programs, needs_torch]


def module(shape: tuple[int, ...], name: str = "weight", dims: dict[str, int] | None = None, **attributes: Any) -> Any:
    """A module with one parameter; ``dims``: that parameter's own attributes."""
    import torch

    found = torch.nn.Module()
    parameter = torch.nn.Parameter(torch.zeros(shape), requires_grad=False)
    for key, value in (dims or {}).items():
        setattr(parameter, key, value)
    found.register_parameter(name, parameter)
    for key, value in attributes.items():
        object.__setattr__(found, key, value)
    return found


BOTH: dict[str, Any] = {"output_dim": 0, "input_dim": 1}
SECOND: dict[str, Any] = {"tp_size": 2, "tp_rank": 1}
ALONE: dict[str, Any] = {"tp_size": 1, "tp_rank": 0, "output_size": 8, "output_size_per_partition": 8}
MERGED: dict[str, Any] = {**SECOND, "output_size": 12, "output_sizes": [8, 4], "output_size_per_partition": 6}
COLUMN: dict[str, Any] = {
    **SECOND,
    "input_size": 8,
    "input_size_per_partition": 8,
    "output_size": 8,
    "output_size_per_partition": 4,
}
ROW: dict[str, Any] = {
    **SECOND,
    "output_size": 8,
    "output_size_per_partition": 8,
    "input_size": 8,
    "input_size_per_partition": 4,
}
PACKED: dict[str, Any] = {**ROW, "input_size": 32, "input_size_per_partition": 16}
VOCABULARY: dict[str, Any] = {
    "tp_size": 2,
    "tp_rank": 0,
    "num_embeddings_per_partition": 64,
    "num_embeddings_padded": 128,
}
# 4 heads of 3, 2 of keys and values, on 4 ranks: two ranks share each of these.
QKV: dict[str, Any] = {
    "tp_size": 4, "tp_rank": 3, "input_size": 8, "input_size_per_partition": 8, "output_size": 12 + 2 * 12,
    "output_sizes": [12, 12, 12], "output_size_per_partition": 9, "num_kv_head_replicas": 2,
}  # fmt: skip
EXPERTS = SimpleNamespace(use_ep=False, tp_size=2, tp_rank=1, ep_size=1, ep_rank=0)
SPREAD = SimpleNamespace(use_ep=True, tp_size=1, tp_rank=0, ep_size=3, ep_rank=2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (partial(module, (4, 8), dims=BOTH, **COLUMN), "4x8, 4:8 of 8 in dimension 0"),
        (partial(module, (8, 4), dims=BOTH, **ROW), "8x4, 4:8 of 8 in dimension 1"),
        (partial(module, (8,), "bias", dims={"output_dim": 0}, **ROW), "8, whole"),
        (partial(module, (4,), "bias", dims={"output_dim": 0}, **COLUMN), "4, 4:8"),
        (
            partial(module, (6, 8), dims=BOTH, **MERGED),
            "6x8, 4:8, 10:12 of 12 in dimension 0",
        ),
        (partial(module, (9, 8), dims=BOTH, **QKV), "9x8, 9:12, 15:18, 21:24 of 24 in dimension 0"),
        # Kept in a kernel's form: no elements, and none of vLLM's attributes.
        (partial(module, (0,), **COLUMN), "0, 4:8 of 8 in dimension 0"),
        # Eight weights in one number; a scale for a block of four; one for all.
        (
            partial(module, (8, 2), "qweight", {"input_dim": 1}, **PACKED),
            "8x2, 2:4 of 4 in dimension 1",
        ),
        (
            partial(module, (1, 8), "weight_scale", BOTH, **COLUMN),
            "1x8, 1:2 of 2 in dimension 0",
        ),
        (partial(module, (1,), "weight_scale", **COLUMN), "1, whole"),
        (
            partial(module, (64, 8), **VOCABULARY),
            "64x8, 0:64 of 128 in dimension 0",
        ),
        (partial(module, (8, 8), dims=BOTH, **ALONE), "8x8, whole"),
        (partial(module, (8,)), "8, whole"),
    ],
)  # fmt: skip
def test_what_part_of_a_parameter_is_here(given: Callable[[], Any], said: str) -> None:
    from vllm_hpc.engine.programs.model import shards_of

    here = given()
    (found,) = shards_of(here, 0)
    assert said in str(found)
    assert found.parameter is next(here.parameters())


@pytest.mark.parametrize(
    ("parallel", "shapes", "said"),
    [
        (EXPERTS, ((6, 8, 16), (6, 16, 4)), ["6x8x16, 4:8, 12:16 of 16 in dimension 1", "4:8 of 8 in dimension 2"]),
        (EXPERTS, ((6, 4, 16), (6, 16, 4)), ["6x4x16, 4:8 of 8 in dimension 1", "4:8 of 8 in dimension 2"]),
        (SPREAD, ((2, 8, 16), (2, 16, 4)), ["2x8x16, 6:8 of 8 in dimension 0", "2x16x4, 6:8 of 8 in dimension 0"]),
    ],
)
def test_what_part_of_a_mixtures_experts_is_here(parallel: Any, shapes: tuple[Any, Any], said: list[str]) -> None:
    import torch

    from vllm_hpc.engine.programs.model import shards_of

    config = SimpleNamespace(moe_parallel_config=parallel, num_experts=8)
    experts = module(shapes[0], "w13_weight", moe_config=config)
    experts.register_parameter("w2_weight", torch.nn.Parameter(torch.zeros(shapes[1])))
    model = torch.nn.ModuleDict({"experts": experts})
    found = [str(one) for one in shards_of(model, 0)]
    assert all(words in line for words, line in zip(said, found, strict=True)), found


def layers(count: int, **more: Any) -> Any:
    import torch

    return torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(count))


def missing() -> Any:
    import torch

    return type("PPMissingLayer", (torch.nn.Identity,), {})()


def model(**parts: Any) -> Any:
    import torch

    root = torch.nn.Module()
    for path, part in parts.items():
        here = root
        *folders, name = path.split("__")
        for folder in folders:
            if not hasattr(here, folder):
                here.add_module(folder, torch.nn.Module())
            here = getattr(here, folder)
        here.add_module(name, part)
    return root


@pytest.mark.parametrize("path", ["model__layers", "transformer__h", "model__decoder__layers", "backbone__blocks"])
def test_the_layers_are_found_by_what_they_are(path: str) -> None:
    from vllm_hpc.engine.programs.model import find_layers

    every = layers(4)
    assert find_layers(model(**{path: every}), 4) == list(every)
    assert find_layers(model(**{path: every}), None) == list(every)


def test_a_tower_for_images_and_lists_inside_layers_are_not_the_layers() -> None:
    from vllm_hpc.engine.programs.model import find_layers

    every = layers(2)
    every[0].add_module("experts", layers(8))
    both = model(vision_tower__encoder__layers=layers(2), language_model__model__layers=every, norms=layers(5))
    assert find_layers(both, 2) == list(every)
    assert find_layers(model(norms=layers(3), model__layers=layers(2)), 2) != []


def test_what_another_pipeline_stage_has_is_left_out() -> None:
    import torch

    from vllm_hpc.engine.programs.model import find_layers

    mine = torch.nn.Linear(2, 2)
    assert find_layers(model(model__layers=torch.nn.ModuleList([missing(), mine, missing()])), 3) == [mine]
    assert find_layers(torch.nn.Linear(2, 2), 3) == []
