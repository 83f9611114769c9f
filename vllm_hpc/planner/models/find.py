"""Finds what MODEL names: a local folder, a Hub id, or ``demo``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_hpc.planner.models import demo, folders
from vllm_hpc.planner.models.describe import needed_files
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.rehearsal import NO_MODEL
from vllm_hpc.spec.resolved_job import Model
from vllm_hpc.spec.values import as_path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# A page of the Hub, copied from a browser or a script.
_HUB_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?!(?:datasets|spaces|docs|collections|papers)/)(?:models/)?"
    r"([\w.-]+/[\w.-]+)(?:[/?#].*)?|hf://(?:models/)?([\w.-]+/[\w.-]+)(?:[/?#@].*)?",
    re.IGNORECASE,
)


def find_model(text: str, is_rehearsed: bool = False, engine: Mapping[str, Any] | None = None) -> Model:
    """Find what MODEL names, without loading or writing anything; optional in a rehearsal. Raises ModelError.

    ``engine`` has the arguments of --engine, some of which say what a folder must hold.
    """
    if is_rehearsed and text == NO_MODEL:
        return Model(NO_MODEL, "rehearsal")
    if text == demo.NAME:
        return Model(str(demo.model_folder()), demo.NAME)
    if not text:
        raise ModelError("MODEL is empty: name a model folder, a Hub id (org/name), or 'demo'")
    folder = as_path(text, "model folder")
    if folder.exists():
        # abspath keeps symlinks: sites move their targets.
        return folders.find_in(Path(os.path.abspath(folder)), needed_files(engine or {}))  # noqa: PTH100
    if _HUB_ID.fullmatch(text):
        return Model(text, text.split("/")[1])
    raise ModelError(f"no such model folder: {text!r}: {_instead(text)}")


def ensure_model(model: Model) -> None:
    """Convert the demo model if the job uses it and it does not exist yet. Raises ModelError."""
    if _is_demo(model):
        demo.ensure()


def _is_demo(model: Model) -> bool:
    try:
        return model.path == str(demo.model_folder())
    except ModelError:  # there is no folder for it, so this is another model
        return False


def _instead(text: str) -> str:
    """What to give instead of a MODEL that is neither a folder nor a Hub id."""
    if page := _HUB_PAGE.fullmatch(text):
        return f"use the Hub id, {page[1] or page[2]!r}"
    if text.startswith("file:"):
        return f"use the path, {'/' + text.removeprefix('file:').lstrip('/')!r}"
    if _HUB_ID.fullmatch(text.rstrip("/")):
        return f"name a folder that exists, or without the slash the Hub id, {text.rstrip('/')!r}"
    return "name a folder with a config.json, a Hub id (org/name), or 'demo'"
