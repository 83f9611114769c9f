"""LoRA adapters given with --lora, found and checked before anything is submitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import UnfitFileError, read_regular
from vllm_hpc.spec.repeats import first_repeated
from vllm_hpc.spec.values import as_path

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter: the name that rows use, its folder (absolute), and its largest rank."""

    name: str
    path: str
    rank: int


def split_adapter(given: str) -> tuple[str, str]:
    """Name and path of ``NAME=PATH``; for a bare PATH, the name is the folder's."""
    name, sign, path = given.partition("=")
    if sign and "/" not in name:
        return name, path
    return Path(given).expanduser().resolve().name, given


def find_adapters(given: list[str]) -> tuple[Adapter, ...]:
    """The adapters given with --lora, each a folder written by PEFT. Raises RequestError."""
    found = tuple(_find(*split_adapter(text), f"--lora {text!r}") for text in given)
    if twice := first_repeated(adapter.name for adapter in found):
        raise RequestError(f"--lora names {twice!r} more than once: give each adapter a name, NAME=PATH")
    return found


def _find(name: str, path: str, option: str) -> Adapter:
    if not name or not path:
        raise RequestError(f"{option} must be NAME=PATH, or PATH")
    folder = as_path(path, "--lora").resolve()
    config = _read_config(folder, option)
    if config.get("peft_type", "LORA") != "LORA":
        raise RequestError(f"{option} is of type {config['peft_type']!r}: vLLM runs LORA adapters only")
    if config.get("use_dora"):
        raise RequestError(f"{option} is a DoRA adapter, which vLLM does not run")
    if not any((folder / weights).is_file() for weights in WEIGHTS):
        raise RequestError(f"{option} has no weights: {WEIGHTS[0]} is missing")
    return Adapter(name, str(folder), _rank(config, option))


def _read_config(folder: Path, option: str) -> dict[str, Any]:
    try:
        config = json.loads(read_regular(folder / CONFIG).decode())
    except UnfitFileError as error:
        raise RequestError(f"{option}: {str(folder / CONFIG)!r} cannot be read: {error.strerror}") from None
    except OSError:
        raise RequestError(f"{option} is not an adapter: there is no {str(folder / CONFIG)!r}") from None
    except ValueError as error:
        raise RequestError(f"{option}: {CONFIG} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise RequestError(f"{option}: {CONFIG} must be a JSON object")
    return config


def _rank(config: dict[str, Any], option: str) -> int:
    """The largest rank: some layers may have their own."""
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise RequestError(f"{option}: {CONFIG} must have a rank ('r') above 0")
    return max(int(rank) for rank in ranks if rank)
