"""What a model folder says about the model: its config.json, or Mistral's own params.json, and the user's overrides.

The choice between the two is that of vLLM 0.32 (transformers_utils/config.py, get_config).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.planner.models.config import assumed_class
from vllm_hpc.planner.models.fields import NotCheckedError, shown
from vllm_hpc.planner.models.mistral import CONFIG, PARAMS, translate
from vllm_hpc.planner.models.overrides import override
from vllm_hpc.planner.models.read_json import read_object, starts_with_mark
from vllm_hpc.spec.read_file import read_regular

FORMATS = ("auto", "hf", "mistral")
# The quantisation of ModelOpt up to 0.29, which vLLM reads if config.json has none.
_QUANTIZATION = "hf_quant_config.json"
_MODULES = "modules.json"  # of sentence-transformers
# Where AutoGPTQ and AutoAWQ wrote the quantisation before config.json had it.
OLD_METHODS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
# What vLLM takes for weights in Mistral's own format.
CONSOLIDATED = "consolidated*.safetensors"


class Description(msgspec.Struct, frozen=True):
    """The keys of a config.json, from whatever ``file``; ``origin`` is its path in errors."""

    config: dict[str, Any]
    origin: str
    file: str
    notes: tuple[str, ...] = ()


def needed_files(engine: Mapping[str, Any]) -> tuple[str, ...]:
    """The files of which vLLM needs one with these engine arguments; none if it finds the model's keys elsewhere."""
    if engine.get("hf_config_path"):
        return ()
    return {"auto": (CONFIG, PARAMS), "hf": (CONFIG,), "mistral": (PARAMS,)}.get(_format(engine), ())


def describe(folder: Path, engine: Mapping[str, Any]) -> Description:
    """Read what a folder says about its model. ``engine``: config_format and hf_overrides count.

    Raises NotCheckedError if the planner cannot read it, ModelError for a damaged file, RequestError.
    """
    if engine.get("hf_config_path"):
        raise NotCheckedError("the planner does not read the config.json of --engine hf_config_path")
    if _format(engine) not in FORMATS:
        raise NotCheckedError(f"the planner does not know --engine config_format={shown(engine['config_format'])}")
    notes: list[str] = []
    name = _choose_file(folder, _format(engine), notes)
    config = read_object(folder / name)
    if starts_with_mark(folder / name):
        notes.append(f"{name} begins with a byte order mark, and transformers refuses it: save it as UTF-8 without one")
    origin = repr(str(folder / name))
    if name == PARAMS:
        beside = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        config = translate(config, beside, origin)
    if config.get("quantization_config") is None and (folder / _QUANTIZATION).is_file():
        config["quantization_config"] = read_object(folder / _QUANTIZATION)
    if config.get("quantization_config") is None and engine.get("quantization") in OLD_METHODS.values():
        config["quantization_config"] = _old_quantization(folder, str(engine["quantization"]))
    config = override(config, engine.get("hf_overrides"))
    notes += _remarks(folder, config, engine)
    if assumed := assumed_class(config, origin):
        notes.append(
            f"{assumed} is assumed, from the model_type: {CONFIG} has no 'architectures', and vLLM may take it for an "
            f"""embedding model; --engine 'hf_overrides={{"architectures": ["{assumed}"]}}' names the class"""
        )
    return Description(config, origin, name, tuple(notes))


def _remarks(folder: Path, config: dict[str, Any], engine: Mapping[str, Any]) -> Iterator[str]:
    """What a folder makes vLLM do that its config.json does not show, or what vLLM needs for it."""
    if engine.get("runner", "auto") == "auto" and _is_for_embedding(folder):
        yield (
            f"vLLM takes it for an embedding model, since {_MODULES} has a pooling module: rows get an embedding, and "
            "no text; --engine runner=generate makes text"
        )
    if config.get("auto_map") and not engine.get("trust_remote_code"):
        yield (
            f"{CONFIG} names code of the model's own (auto_map): if vLLM does not know the model, it needs --engine "
            "trust_remote_code=true"
        )


def _is_for_embedding(folder: Path) -> bool:
    """Whether sentence-transformers pools the model, as some decoders are published (vLLM: get_pooling_config)."""
    try:
        modules = json.loads(read_regular(folder / _MODULES))
    except (OSError, ValueError, RecursionError):
        return False
    kinds = [one.get("type") for one in modules if isinstance(one, dict)] if isinstance(modules, list) else []
    return any(str(kind).startswith("sentence_transformers.") and str(kind).endswith(".Pooling") for kind in kinds)


def _old_quantization(folder: Path, method: str) -> dict[str, Any] | None:
    """The quantisation of a file of its own, which vLLM reads if --engine quantization says how; None without one."""
    name = next((name for name in OLD_METHODS if (folder / name).is_file()), None)
    return {**read_object(folder / name), "quant_method": method} if name else None


def has_consolidated(folder: Path) -> bool:
    """Whether there are weights in Mistral's own format."""
    return next(folder.glob(CONSOLIDATED), None) is not None


def _format(engine: Mapping[str, Any]) -> str:
    name = engine.get("config_format") or "auto"
    return name if isinstance(name, str) else repr(name)


def _choose_file(folder: Path, config_format: str, notes: list[str]) -> str:
    """The file that vLLM reads. Adds a note if vLLM would read none without being told to."""
    if config_format != "auto" or not (folder / PARAMS).is_file():
        return PARAMS if config_format == "mistral" else CONFIG
    if has_consolidated(folder):
        return PARAMS
    if (folder / CONFIG).is_file():
        return CONFIG
    notes.append(f"vLLM reads {PARAMS} beside {CONSOLIDATED}, or with --engine config_format=mistral")
    return PARAMS
