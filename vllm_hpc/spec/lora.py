"""LoRA adapters given with --lora, found and checked before anything is submitted."""

from __future__ import annotations

import json
import re
import shlex
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import UnfitFileError, read_regular
from vllm_hpc.spec.repeats import first_repeated
from vllm_hpc.spec.values import as_path

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,15})")
_MOST_LISTED = 1000  # files and folders that are looked at in search of an adapter


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
    return as_path(given, "--lora").resolve().name, given


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
    config = _read_config(folder, path, option)
    if config.get("peft_type", "LORA") != "LORA":
        raise RequestError(f"{option} is of type {config['peft_type']!r}: vLLM runs LORA adapters only")
    if config.get("use_dora"):
        raise RequestError(f"{option} is a DoRA adapter, which vLLM does not run")
    if not any((folder / weights).is_file() for weights in WEIGHTS):
        raise RequestError(f"{option} has no weights: {WEIGHTS[0]} is missing: copy the adapter again")
    return Adapter(name, str(folder), _rank(config, option))


def _read_config(folder: Path, given: str, option: str) -> dict[str, Any]:
    try:
        config = json.loads(read_regular(folder / CONFIG).decode())
    except UnfitFileError as error:
        raise RequestError(f"{option}: {str(folder / CONFIG)!r} cannot be read: {error.strerror}") from None
    except OSError:
        said = f"{option} is not an adapter: there is no {str(folder / CONFIG)!r}"
        raise RequestError(f"{said}: {_instead(folder, given)}") from None
    except ValueError as error:
        raise RequestError(f"{option}: {CONFIG} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise RequestError(f"{option}: {CONFIG} must be a JSON object")
    return config


def _instead(folder: Path, given: str) -> str:
    """What to give instead of a path that is no adapter."""
    if folder.is_file():
        return f"name its folder, {str(folder.parent)!r}" if folder.name in (CONFIG, *WEIGHTS) else "name a folder"
    if not folder.exists():
        if _HUB_ID.fullmatch(given):
            name = given.split("/")[1]
            return f"to use the Hub's, get it with 'hf download {given} --local-dir {name}', and use --lora {name}"
        return f"name a folder with {CONFIG}, as PEFT writes it"
    if inside := _adapters_in(folder):
        return f"name the adapter in it, as --lora {shlex.quote(str(inside[0]))}"
    if (folder / "config.json").is_file():
        return "it is a whole model: give it as MODEL, without --lora"
    return f"name a folder with {CONFIG}, as PEFT writes it"


def _adapters_in(folder: Path) -> list[Path]:
    """The folders with adapters in a folder, such as a trainer's checkpoints: the last of these first."""
    try:
        found = [one for one in islice(folder.iterdir(), _MOST_LISTED) if (one / CONFIG).is_file()]
    except OSError:
        return []
    return sorted(found, key=lambda one: (-_step(one), one.name))


def _step(folder: Path) -> int:
    match = _CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match else -1


def _rank(config: dict[str, Any], option: str) -> int:
    """The largest rank: some layers may have their own."""
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise RequestError(f"{option}: {CONFIG} must have a rank ('r') above 0")
    return max(int(rank) for rank in ranks if rank)
