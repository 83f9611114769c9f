"""--allow: what may be taken of tune's findings although it changes the answers."""

from __future__ import annotations

from typing import Any

from vllm_hpc.spec.errors import RequestError

# Names of --allow and of tune's --sweep, and the engine argument that each stands for.
CHANGES_ANSWERS = {
    "quantization": "quantization",
    "kv_cache_dtype": "kv_cache_dtype",
    "speculation": "speculative_config",
}


def split_allowed(options: dict[str, Any]) -> dict[str, Any]:
    """Options with each name of ``allow`` by itself: a text may have several, separated by commas."""
    given = options.get("allow")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple | set | frozenset) or not all(isinstance(text, str) for text in texts):
        return options  # the Request says what it must be
    names = [name.strip() for text in texts for name in text.split(",")]
    return {**options, "allow": sorted(set(names)) if isinstance(texts, set | frozenset) else [*dict.fromkeys(names)]}


def check_allowed(names: list[str]) -> None:
    """Refuse names that stand for nothing. Raises RequestError."""
    for name in names:
        if name not in CHANGES_ANSWERS:
            raise RequestError(f"--allow must be of {', '.join(CHANGES_ANSWERS)}, not {name!r}")
