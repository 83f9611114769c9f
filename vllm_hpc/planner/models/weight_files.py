"""Which files of a folder vLLM loads as weights, and whether they are there and are more than placeholders.

vLLM 0.32: model_executor/model_loader/default_loader.py, _prepare_weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from vllm_hpc.planner.models.other_formats import other_format
from vllm_hpc.planner.models.read_json import read_object
from vllm_hpc.spec import lora
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.read_file import open_regular

_SAFETENSORS, _ANY = ("*.safetensors",), ("*.safetensors", "*.bin", "*.pt")
# load_format -> the patterns of its files, of which the first that matches is loaded. Others are not judged.
_PATTERNS = {
    "auto": _ANY, "hf": _ANY, "bitsandbytes": _ANY, "safetensors": _SAFETENSORS, "fastsafetensors": _SAFETENSORS,
    "instanttensor": _SAFETENSORS, "runai_streamer": _SAFETENSORS, "sharded_state": _SAFETENSORS,
    "mistral": ("consolidated*.safetensors",), "pt": ("*.pt",), "npcache": ("*.bin", "*.pt"),
}  # fmt: skip
# What a trainer leaves beside the weights, and vLLM passes over; and an adapter's.
_NO_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "adapter_model.*")
_TOKENIZERS = ("tokenizer*", "*.model", "*.tiktoken", "tekken.json", "vocab*", "merges.txt")
_BIN_INDEX = "pytorch_model.bin.index.json"
_UNFINISHED = ("*.incomplete", "*.part", "*.partial", "*.crdownload", "*.aria2", "*.download")
_DOWNLOADS = (".", ".cache/huggingface/download", "../../blobs")  # the last of a Hugging Face cache
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: a pointer is shorter than this, and begins so.
_MOST_POINTER, _POINTER = 1024, b"version https://git-lfs"
_MOST_LISTED = 10_000


def lacks_weights(folder: Path, engine: Mapping[str, Any]) -> str | None:
    """Why vLLM would find no weights in a folder, and what to do; None if it finds some, needs none, or may."""
    patterns = _patterns(engine)
    if patterns is None or _loaded(folder, patterns):
        return None
    if other := other_format(folder):
        return other
    load_format = engine.get("load_format")
    asked = f", with load_format={load_format}" if load_format else ""
    kinds = " or ".join(filter(None, (", ".join(patterns[:-1]), patterns[-1])))
    said = f"{str(folder)!r} has no weights that vLLM loads ({kinds}{asked})"
    if unfinished := _unfinished(folder):
        return f"{said}, but an unfinished download, {unfinished!r}: download the model again"
    if (folder / lora.CONFIG).is_file():
        return f"{said}, but an adapter's: name its base model, with --lora and this folder"
    return f"{said}: copy or download the whole model, or use --engine load_format=dummy for random ones"


def check_files(folder: Path, engine: Mapping[str, Any]) -> None:
    """Refuse weights and tokenizers that are placeholders, empty, or only some of several. Raises ModelError, OSError.

    The headers of safetensors files, and their index, are checked where they are read.
    """
    weights = _loaded(folder, _patterns(engine) or ())
    small = [file for file in folder.iterdir() if any(fnmatchcase(file.name, one) for one in _TOKENIZERS)]
    pointers = [file.name for file in (*weights, *small) if _is_pointer(file)]
    if pointers:
        more = f" and {len(pointers) - 1} more are pointers" if len(pointers) > 1 else " is a pointer"
        raise ModelError(
            f"{str(folder)!r}: {pointers[0]!r}{more} of Git LFS, without the content: run 'git lfs pull' in it"
        )
    for file in weights:
        if file.with_name(f"{file.name}.aria2").exists():
            raise ModelError(f"{str(file)!r} is not whole: {file.name}.aria2 is beside it: download it again")
        if not file.is_file():
            raise ModelError(f"{str(folder)!r}: {file.name!r} is not a file, or is a broken link: copy the model again")
        if not file.stat().st_size:
            raise ModelError(f"{str(file)!r} is empty: copy it again")
    if weights and weights[0].suffix == ".bin":
        _check_bin_shards(folder, weights)


def loaded_files(folder: Path, engine: Mapping[str, Any]) -> list[Path]:
    """The files that vLLM loads as weights; none where they need not be here."""
    return _loaded(folder, _patterns(engine) or ())


def _patterns(engine: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Patterns of the files with weights; None if there need not be any here."""
    if engine.get("model_weights"):
        return None
    return _PATTERNS.get(str(engine.get("load_format") or "auto"))


def _loaded(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    for pattern in patterns:
        found = [file for file in folder.glob(pattern) if not any(fnmatchcase(file.name, no) for no in _NO_WEIGHTS)]
        if found:
            return sorted(found)
    return []


def _is_pointer(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > _MOST_POINTER:
        return False
    with open_regular(file) as stream:
        return stream.read(len(_POINTER)) == _POINTER


def _check_bin_shards(folder: Path, weights: list[Path]) -> None:
    """Refuse pytorch_model-00001-of-00002.bin without the other. Raises ModelError."""
    index = folder / _BIN_INDEX
    named = read_object(index).get("weight_map") if index.is_file() else None
    expected = {str(name) for name in named.values()} if isinstance(named, dict) else set()
    for file in weights:
        if match := re.fullmatch(r"(.*-)\d{5}-of-(\d{5})\.bin", file.name):
            expected |= {f"{match[1]}{number:05}-of-{match[2]}.bin" for number in range(1, int(match[2]) + 1)}
    missing = sorted(expected - {file.name for file in weights})
    if missing:
        raise ModelError(
            f"{str(folder)!r} is missing {len(missing)} of its {len(expected)} files of weights ({missing[0][:80]!r} "
            "first): copy the model again"
        )


def _unfinished(folder: Path) -> str | None:
    """A file that a download has not finished, if there is one."""
    for place in _DOWNLOADS:
        try:
            names = [file.name for file in islice((folder / place).iterdir(), _MOST_LISTED)]
        except OSError:
            continue
        if place != "../../blobs" or folder.parent.name == "snapshots":
            for name in sorted(names):
                if any(fnmatchcase(name, pattern) for pattern in _UNFINISHED):
                    return name
    return None
