"""Finds what MODEL names: a local folder, a Hub id, or ``demo``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_hpc.planner.models import demo, folders
from vllm_hpc.planner.models.mistral import CONFIG, PARAMS
from vllm_hpc.planner.models.nearest_folder import folders_in, is_folder, link_target, nearest_folder, nearest_name
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.job_definition import JOB_DEFINITION
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
# The Hub's model, whatever folders are here.
_HUB = re.compile(rf"hf://(?:models/)?({_HUB_ID.pattern})", re.IGNORECASE)
# No model of the Hub is called like a file of these kinds.
_FILES = (".toml", ".json", ".jsonl", ".safetensors")


def find_model(text: str, is_rehearsed: bool = False, engine: Mapping[str, Any] | None = None) -> Model:
    """Find what MODEL names, without loading or writing anything; optional in a rehearsal. Raises ModelError.

    ``engine`` has the arguments of --engine, some of which say what a folder must hold.
    """
    if is_rehearsed and text == NO_MODEL:
        return Model(NO_MODEL, "rehearsal")
    if text == demo.NAME:
        note = f"'{demo.NAME}' is the built-in model: for the folder of that name, write ./{demo.NAME}"
        return Model(str(demo.model_folder()), demo.NAME, note if is_folder(demo.NAME) else "")
    if not text:
        raise ModelError("MODEL is empty: name a model folder, a Hub id (org/name), or 'demo'")
    folder = as_path(text, "model folder")
    if folder.exists():
        # abspath keeps symlinks: sites move their targets.
        return folders.find_in(Path(os.path.abspath(folder)), engine or {})  # noqa: PTH100
    if hub := _HUB.fullmatch(text):
        return Model(hub[1], hub[1].split("/")[1])
    if _HUB_ID.fullmatch(text) and not _is_path(text):
        return Model(text, text.split("/")[1])
    raise ModelError(f"no such model folder: {text!r}: {_instead(text)}")


def _is_path(text: str) -> bool:
    """Whether what could be a Hub id is a mistyped path: its folder is here, or only that folder's name is mistyped."""
    parent, _, name = text.rpartition("/")
    if text.endswith(_FILES) or is_folder(parent):
        return True
    near = nearest_folder(text, likeness=0.75)
    return near is not None and near.rpartition("/")[2].lower() == name.lower() and _is_named(near)


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
    if target := link_target(text):
        return f"it is a link to {target!r}, which is not here"
    if text.startswith("file:"):
        return f"use the path, {'/' + text.removeprefix('file:').lstrip('/')!r}"
    if text.endswith(".toml") and not nearest_folder(text):
        return f"a job definition is a folder with a {JOB_DEFINITION}: name the folder"
    return _nearest(text)


def _nearest(text: str) -> str:
    """The folder that a mistyped path may mean, else those beside it; and how the Hub's model is named."""
    hub = text.rstrip("/")
    on_hub = f"for the Hub's model, use 'hf://{hub}'" if _HUB_ID.fullmatch(hub) else ""
    parent = hub.rpartition("/")[0]
    near = demo.NAME if nearest_name(text, [demo.NAME]) else nearest_folder(text)
    if near and ("/" in hub or near == demo.NAME or _is_named(near)):
        return f"did you mean {near!r}?{f' Or {on_hub}' if on_hub else ''}"
    if on_hub and is_folder(parent):
        return f"the folder {parent!r} has {folders_in(parent) or 'no folders'}; {on_hub}"
    if on_hub and text != hub:
        return f"name a folder that exists, or without the slash the Hub id, {hub!r}"
    return on_hub or f"name a folder with a {CONFIG}, a Hub id (org/name), or {demo.NAME!r}"


def _is_named(folder: str) -> bool:
    """Whether a folder can be MODEL."""
    return any((Path(folder).expanduser() / name).is_file() for name in (CONFIG, PARAMS, JOB_DEFINITION))
