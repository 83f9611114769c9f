"""What ``--engine 'hf_overrides={...}'`` changes in a config.json, as vLLM applies it.

vLLM 0.32: config/model.py, _apply_dict_overrides and _update_nested. An object is merged into a nested config
(text_config, vision_config ...) and replaces any other value.
"""

from __future__ import annotations

from typing import Any

from vllm_hpc.planner.models.fields import NotCheckedError, shown
from vllm_hpc.spec.errors import RequestError

# One setting under two names: transformers 5 has rope_parameters, and reads and writes rope_scaling as the same.
_ROPE = frozenset({"rope_parameters", "rope_scaling"})
# Widths from which some classes of transformers compute head_dim, before the overrides are applied.
_HEADS = frozenset({"hidden_size", "n_embd", "num_attention_heads", "n_head"})
# Objects that are no configs of their own.
_PLAIN = frozenset({"quantization_config", "compression_config"})


def override(config: dict[str, Any], overrides: Any) -> dict[str, Any]:
    """The config with the overrides, unchanged if there are none.

    Raises RequestError if they are not an object, NotCheckedError if what they change cannot be told.
    """
    if overrides is None:
        return config
    if not isinstance(overrides, dict):
        raise RequestError(f"--engine hf_overrides must be a JSON object, not {shown(overrides)}")
    changed = _without_other_name(config, overrides)
    for key, value in overrides.items():
        is_config = isinstance(changed.get(key), dict) and key.endswith("_config") and key not in _PLAIN
        changed[key] = _merged(changed[key], value) if is_config and isinstance(value, dict) else value
    return changed


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = _without_other_name(below, above)
    for key, value in above.items():
        nested = merged.get(key)
        merged[key] = _merged(nested, value) if isinstance(nested, dict) and isinstance(value, dict) else value
    return merged


def _without_other_name(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy, without the other name of what is overridden under one of two. Raises NotCheckedError."""
    if _HEADS & overrides.keys() and overrides.get("head_dim") is None:
        raise NotCheckedError("hf_overrides of hidden_size or num_attention_heads may leave head_dim as it was: add it")
    others = _ROPE - overrides.keys() if _ROPE & overrides.keys() else frozenset()
    return {key: value for key, value in config.items() if key not in others}
