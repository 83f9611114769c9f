"""Finds what MODEL names: a local folder, a Hub id, or ``demo``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vllm_hpc.planner.models import demo
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.rehearsal import NO_MODEL
from vllm_hpc.spec.resolved_job import Model
from vllm_hpc.spec.values import as_path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def find_model(text: str, is_rehearsed: bool = False) -> Model:
    """Find what MODEL names, without loading or writing anything; optional in a rehearsal. Raises ModelError."""
    if is_rehearsed and text == NO_MODEL:
        return Model(NO_MODEL, "rehearsal")
    if text == demo.NAME:
        return Model(str(demo.model_folder()), demo.NAME)
    if not text:
        raise ModelError("MODEL is empty: name a model folder, a Hub id (org/name), or 'demo'")
    folder = as_path(text, "model folder")
    if folder.exists():
        _check_folder(folder)
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 - keeps symlinks: sites move their targets
        return Model(str(folder), folder.name)
    if _HUB_ID.fullmatch(text):
        return Model(text, text.split("/")[1])
    raise ModelError(
        f"no such model folder: {text!r}: name a folder with a config.json, a Hub id (org/name), or 'demo'"
    )


def ensure_model(model: Model) -> None:
    """Convert the demo model if the job uses it and it does not exist yet. Raises ModelError."""
    if _is_demo(model):
        demo.ensure()


def _is_demo(model: Model) -> bool:
    try:
        return model.path == str(demo.model_folder())
    except ModelError:  # there is no folder for it, so this is another model
        return False


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"{str(folder)!r} is a file, not a model folder: name the folder that holds config.json")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{str(folder)!r} is not a model folder: it has no config.json")
