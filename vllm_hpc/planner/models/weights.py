"""Sizes of the weights of a model folder, from the headers of its safetensors files: exact, in milliseconds.

The format: 8 bytes with the header's length (little-endian), then a JSON header with dtype, shape and offsets of
every tensor, then the tensors (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.models.count import count_parameters
from vllm_hpc.planner.models.describe import OLD_METHODS
from vllm_hpc.planner.models.read_json import read_object
from vllm_hpc.spec import lora
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.read_file import open_regular

INDEX, CONSOLIDATED_INDEX = "model.safetensors.index.json", "consolidated.safetensors.index.json"
MOST_HEADER = 100_000_000  # bytes: the limit of the safetensors library itself
# vLLM converts these to the engine's dtype while loading; quantised weights and their scales stay unchanged.
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,9})\.")


class Weights(msgspec.Struct, frozen=True):
    """What vLLM loads from the files: elements of floats that it converts to its dtype, bytes of everything else."""

    float_elements: int
    other_bytes: int

    def loaded_bytes(self, dtype_bytes: int) -> int:
        """Bytes in memory if floats have that size."""
        return self.float_elements * dtype_bytes + self.other_bytes


class _Tensor(msgspec.Struct):
    dtype: str = ""
    shape: list[int] = []
    data_offsets: tuple[int, int] | None = None


def read_weights(folder: Path, shape: Shape | None, load_format: Any = None) -> Weights | None:
    """The weights in the folder's safetensors files; None if it has none. Raises ModelError for damaged files.

    ``load_format`` is that of --engine: it chooses between two copies of the same weights. What vLLM does not load is
    not counted: extra layers (for multi-token prediction), and an output projection that is tied to the embedding.
    Without a ``shape`` all tensors count.
    """
    files = _files(folder, load_format)
    if not files:
        return None
    elements = other = 0
    for file in files:
        for name, tensor in read_header(file).items():
            if shape and _is_unused(name, shape):
                continue
            if tensor.dtype in _FLOAT_BYTES:
                elements += math.prod(tensor.shape)
            elif tensor.data_offsets:
                other += tensor.data_offsets[1] - tensor.data_offsets[0]
    return Weights(elements, other)


def check_headers(folder: Path, load_format: Any = None) -> None:
    """Refuse damaged or missing safetensors files of a model that is not in the table. Raises ModelError."""
    for file in _files(folder, load_format):
        read_header(file)


def check_whole(folder: Path, shape: Shape, weights: Weights) -> None:
    """Refuse files with far less than config.json describes, as after a partial copy. Raises ModelError.

    Not of a class that is not in the planner's table: there the count may be wrong.
    """
    counted = None if shape.doubt else count_parameters(shape)
    # For a quantisation with unknown bits, assume the smallest common number.
    bits = (shape.quantization.bits or 4.0) if shape.quantization else 16.0
    if counted and weights.loaded_bytes(2) < 0.5 * counted * min(16.0, bits) / 8:
        raise ModelError(
            f"{str(folder)!r}: the weights here ({weights.loaded_bytes(2) / 1e9:.3g} GB) are only part of the "
            f"{counted / 1e9:.3g} B parameters that config.json describes: {_advice(folder, shape)}"
        )


def _advice(folder: Path, shape: Shape) -> str:
    """What to do about weights that are too small for the model."""
    old = next((name for name in OLD_METHODS if (folder / name).is_file()), None)
    if old and not shape.quantization:
        return f"they are quantised, says {old}: use --engine quantization={OLD_METHODS[old]}"
    if (folder / lora.CONFIG).is_file():
        return "copy the model again, or give its base model, with --lora and this adapter"
    return "copy the model again"


def read_header(file: Path) -> dict[str, _Tensor]:
    """The tensors of one safetensors file. Raises ModelError if it is truncated or not such a file."""
    try:
        size = file.stat().st_size
        with open_regular(file) as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER, size - 8):
                raise ModelError(f"{str(file)!r} is not a complete safetensors file ({size} bytes): copy it again")
            tensors = msgspec.json.decode(stream.read(length), type=dict[str, _Tensor])
    except OSError as error:
        raise ModelError(f"cannot read {str(file)!r}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise ModelError(f"{str(file)!r} has no safetensors header ({error}): copy it again") from None
    tensors.pop("__metadata__", None)
    for name, tensor in tensors.items():
        begin, end = tensor.data_offsets or (0, -1)
        if not 0 <= begin <= end or min(tensor.shape, default=0) < 0:
            raise ModelError(f"{str(file)!r}: tensor {name[:80]!r} has invalid offsets: copy it again")
        width = _FLOAT_BYTES.get(tensor.dtype)
        if width and math.prod(tensor.shape) * width != end - begin:
            raise ModelError(f"{str(file)!r}: tensor {name[:80]!r} does not have the size of its shape: copy it again")
        if 8 + length + end > size:
            raise ModelError(
                f"{str(file)!r} is truncated: {8 + length + end} bytes expected, {size} found: copy it again"
            )
    return tensors


def _files(folder: Path, load_format: Any) -> list[Path]:
    """The files that vLLM would load. Raises ModelError if one named in the index is missing.

    Of two copies it loads Mistral's own, unless --engine load_format says otherwise (vLLM 0.32, default_loader.py).
    """
    found = sorted(folder.glob("*.safetensors"))
    consolidated = [path for path in found if path.name.startswith("consolidated")]
    others = [path for path in found if path not in consolidated]
    is_own = bool(consolidated) and (load_format in (None, "auto", "mistral") or not others)
    index = folder / (CONSOLIDATED_INDEX if is_own else INDEX)
    if os.path.lexists(index):
        return _indexed(folder, index)
    files = consolidated if is_own else others
    if odd := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{str(folder)!r}: {odd[0]!r} is not a file, or is a broken link: copy the model again")
    _check_numbers(folder, files)
    return files


def _indexed(folder: Path, index: Path) -> list[Path]:
    if not index.is_file():
        raise ModelError(f"{str(index)!r} is not a file, or is a broken link: copy the model again")
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{str(index)!r}: not a valid index of safetensors files: copy it again")
    files = [folder / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if "/" in file.name or not _is_file(file)]
    if missing:
        raise ModelError(
            f"{str(folder)!r} is missing {len(missing)} of the {len(files)} files that its index names "
            f"({missing[0][:80]!r} first): copy the model again"
        )
    return files


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _check_numbers(folder: Path, files: list[Path]) -> None:
    """Refuse 'model-00001-of-00004.safetensors' without the other three files. Raises ModelError."""
    numbered = [match for file in files if (match := re.search(r"-(\d+)-of-(\d+)\.safetensors$", file.name))]
    announced = max((int(match[2]) for match in numbered), default=0)
    if len(numbered) < announced:
        raise ModelError(f"{str(folder)!r} has {len(numbered)} of {announced} weight files: copy the model again")


def _is_unused(name: str, shape: Shape) -> bool:
    layer = _LAYER.search(name)
    if layer and "vision" not in name and int(layer[1]) >= shape.layers:
        return True
    return shape.tied and name.endswith("lm_head.weight")
