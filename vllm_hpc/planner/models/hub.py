"""Finds the config.json of a Hugging Face Hub model in the local cache, or downloads it.

This needs huggingface_hub, which a login node may not have.
"""

from __future__ import annotations

import os
from importlib import util
from pathlib import Path

from vllm_hpc.planner.models.weights import Weights

# Seconds to wait for the Hub; a login node without internet access must not delay a submit.
TIMEOUT_S = 5.0
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1, "I16": 2, "I32": 4, "I64": 8}


def find_config(model: str) -> Path | str:
    """The folder with the config.json of a Hub id, or the reason why there is none."""
    if util.find_spec("huggingface_hub") is None:
        return "huggingface_hub is not installed here, so its config.json cannot be read"
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(model, "config.json")
    if isinstance(cached, str):
        return Path(cached).parent
    if _is_offline():
        return "it is not in the Hugging Face cache, and HF_HUB_OFFLINE is set"
    try:
        # One request without retries: a download would retry for half a minute on a node without internet access.
        huggingface_hub.model_info(model, timeout=TIMEOUT_S)
        return Path(huggingface_hub.hf_hub_download(model, "config.json", etag_timeout=TIMEOUT_S)).parent
    except Exception as error:  # noqa: BLE001 - whatever the reason, the compute nodes may still reach the Hub
        said = " ".join(str(error).split())[:120]
        return f"it is not in the Hugging Face cache, and the Hub did not return it ({type(error).__name__}: {said})"


def find_weights(model: str) -> Weights | None:
    """The Hub's metadata of a model's safetensors files, None if it has none."""
    if _is_offline():
        return None
    import huggingface_hub

    try:
        counts = huggingface_hub.get_safetensors_metadata(model).parameter_count
    except Exception:  # noqa: BLE001 - the caller then counts from config.json, and says so
        return None
    floats = sum(count for dtype, count in counts.items() if dtype in _FLOATS)
    return Weights(floats, sum(count * _BYTES.get(dtype, 1) for dtype, count in counts.items() if dtype not in _FLOATS))


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
