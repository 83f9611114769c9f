"""The size of a model's weights as its files or its index tell it, whatever its class.

An index (model.safetensors.index.json, pytorch_model.bin.index.json) has the bytes of all tensors in
``metadata.total_size``, and is there before the weights are: in a cache, on the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_hpc.planner.models.fields import whole_number
from vllm_hpc.planner.models.read_json import read_object
from vllm_hpc.planner.models.weight_files import loaded_files
from vllm_hpc.planner.models.weights import INDEX, Weights, read_weights
from vllm_hpc.spec.errors import ModelError

INDEXES = (INDEX, "pytorch_model.bin.index.json")
# Larger than any model's: a damaged or hostile index is no size.
MOST_BYTES = 10**15


def weights_of_size(size: int, dtype: str, is_quantized: bool = False) -> Weights:
    """Weights of so many bytes. vLLM loads float32 in 16 bits; what is quantised stays as it is."""
    if is_quantized:
        return Weights(0, size)
    return Weights(size // (4 if dtype in ("float32", "float") else 2), 0)


def indexed_size(folder: Path) -> int | None:
    """The bytes of all tensors by the folder's index; None without one that says so."""
    for name in INDEXES:
        if (folder / name).is_file():
            try:
                return size_in_index(read_object(folder / name))
            except ModelError:
                return None
    return None


def size_in_index(index: Mapping[str, Any]) -> int | None:
    """The ``total_size`` of an index; None if it has none, or no number of bytes."""
    metadata = index.get("metadata")
    size = whole_number(metadata.get("total_size")) if isinstance(metadata, dict) else None
    return size if size and 0 < size <= MOST_BYTES else None


def read_size(folder: Path, engine: Mapping[str, Any], dtype: str = "", is_quantized: bool = False) -> Weights | None:
    """The weights by the folder's safetensors headers, its other files or its index; None without any of them.

    Raises ModelError for damaged files.
    """
    if weights := read_weights(folder, None, engine.get("load_format")):
        return weights
    files = sum(file.stat().st_size for file in loaded_files(folder, engine) if file.suffix != ".safetensors")
    size = files or indexed_size(folder)
    return weights_of_size(size, dtype, is_quantized) if size else None
