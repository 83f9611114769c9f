"""Models of which at most the size is known: a replica has the GPUs that hold it, never fewer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.planner.test_models import safetensors
from vllm_hpc.planner.by_size import Sized, layout_by_size
from vllm_hpc.planner.models.inspect import inspect_model
from vllm_hpc.planner.models.size import MOST_BYTES, size_in_index
from vllm_hpc.planner.possible_layouts import ASSUMED_NODE
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.gpus import GPUS
from vllm_hpc.spec.resolved_job import Model
from vllm_hpc.spec.solve_layout import Asked, solve

GB = 10**9
NOT_READ = {"architectures": ["ZebraForCausalLM"], "num_hidden_layers": "many"}


@pytest.mark.parametrize(
    ("size", "gpu", "asked", "layout"),
    [
        (16 * GB, "h100-80", Asked(), (1, 1, 1)),
        (16 * GB, "h100-80", Asked(nodes=1), (1, 1, 8)),
        (110 * GB, "h100-80", Asked(nodes=1), (2, 1, 4)),
        (141 * GB, "a100-40", Asked(nodes=1), (8, 1, 1)),
        (716 * GB, "h200", Asked(nodes=1), (8, 1, 1)),
        (716 * GB, "h100-80", Asked(), (8, 2, 1)),
        (716 * GB, "h100-80", Asked(nodes=4), (8, 2, 2)),
        (716 * GB, "h100-80", Asked(tp=4), (4, 3, 1)),
        (716 * GB, "h100-80", Asked(nodes=1, gpus_per_node=8, dp=8), (1, 1, 8)),
        (716 * GB, None, Asked(), (8, 2, 1)),
        (None, "h100-80", Asked(), (8, 1, 1)),
        (None, None, Asked(nodes=2), (8, 1, 2)),
        (None, None, Asked(nodes=1, gpus_per_node=4), (4, 1, 1)),
    ],
)
def test_a_replica_has_the_gpus_that_hold_the_weights(
    size: int | None, gpu: str | None, asked: Asked, layout: tuple[int, int, int]
) -> None:
    device = Device(GPUS[gpu], "--gpu") if gpu else None
    found = layout_by_size(asked, ASSUMED_NODE, Sized(size, device), solve)
    assert (found.layout.tp, found.layout.pp, found.layout.dp) == layout
    assert (found.fits is None) == (size is None or device is None)
    if size and device and not asked.dp:
        assert found.fits is True


def test_weights_that_no_split_of_the_asked_gpus_holds_do_not_fit() -> None:
    found = layout_by_size(Asked(nodes=1, gpus_per_node=8), 8, Sized(716 * GB, Device(GPUS["a100-40"], "--gpu")), solve)
    assert found.fits is False
    assert found.layout.replica_size == 8


@pytest.mark.parametrize(
    ("metadata", "size"),
    [({"total_size": 5}, 5), ({"total_size": 5.0}, 5), ({}, None), (None, None), ([], None),
     ({"total_size": "5"}, None),
     ({"total_size": -5}, None), ({"total_size": MOST_BYTES + 1}, None), ({"total_size": True}, None)],
)  # fmt: skip
def test_an_index_tells_its_size_or_nothing(metadata: Any, size: int | None) -> None:
    assert size_in_index({"metadata": metadata}) == size


def write(folder: Path, index: dict[str, Any] | None = None) -> None:
    (folder / "config.json").write_text(json.dumps(NOT_READ))
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_size_is_that_of_the_index_the_headers_or_the_files(tmp_path: Path) -> None:
    model = Model(str(tmp_path), "model")
    write(tmp_path)
    assert inspect_model(model).is_unsized
    write(tmp_path, {"metadata": {"total_size": 716 * GB}, "weight_map": {}})
    known = inspect_model(model)
    assert known.weights and known.weights.loaded_bytes(2) == 716 * GB
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"0" * 1000)
    known = inspect_model(model)
    assert known.weights and known.weights.loaded_bytes(2) == 1000
    safetensors(tmp_path / "model.safetensors", {"model.x": ("F32", [100])})
    known = inspect_model(model)
    assert known.weights and known.weights.loaded_bytes(2) == 200


def test_a_plan_by_size_says_so(tmp_path: Path) -> None:
    write(tmp_path, {"metadata": {"total_size": 716 * GB}, "weight_map": {}})
    found = plan_only(str(tmp_path), scheduler="slurm", gpu="h200", nodes=1, gpus_per_node=8)
    assert (found.layout.tp, found.fits) == (8, True)
    assert found.memory.weights_gib == pytest.approx(716e9 / 2**30, abs=0.01)
    assert "by the size of the weights, 666.8 GiB" in " ".join(found.reasons)
    found = plan_only(str(tmp_path), scheduler="slurm", gpu="a100-40", nodes=1, gpus_per_node=8)
    assert found.fits is False
    assert "use more nodes" in (found.misfit or "")
