"""What a local folder is: a model, one that holds a model, or something else, with what to do about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vllm_hpc.planner.models.describe import has_consolidated, needed_files
from vllm_hpc.planner.models.mistral import CONFIG, PARAMS
from vllm_hpc.planner.models.other_formats import other_format
from vllm_hpc.planner.models.read_json import read_object
from vllm_hpc.planner.models.weight_files import check_files
from vllm_hpc.spec import lora
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.job_definition import JOB_DEFINITION
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.resolved_job import Model

# The folder of a model in a Hugging Face cache; its snapshots lie in a folder of their own.
_CACHED = re.compile(r"models--(?:.+--)?(.+)")
_SNAPSHOTS = "snapshots"
_COMMIT = re.compile(r"[0-9A-Za-z][\w.-]{0,99}")
# Files whose suffix says that somebody named the file and not its folder.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".json")
_MOST_NAMED = 5  # folders or files in an error
_MOST_LISTED = 1000  # files and folders that are looked at in search of a model


def find_in(path: Path, engine: Mapping[str, Any]) -> Model:
    """The model at an absolute path that exists. ``engine``: arguments of --engine say which files it must have.

    A model's folder in a Hugging Face cache stands for its snapshot. Raises ModelError that says what the path is
    instead, and what to give.
    """
    needed = needed_files(engine)
    try:
        if not path.is_dir():
            raise ModelError(_not_a_folder(path))
        if _is_model(path, needed) and not _says_nothing(path):
            is_other = (CONFIG in needed and _is_of_meta(path)) or _names_no_model(path)
            if is_other and (said := other_format(path)):
                raise ModelError(said)
            check_files(path, engine)
            return Model(str(path), _name(path))
        if (path / _SNAPSHOTS).is_dir():
            return _snapshot(path, needed)
        raise ModelError(_why_not(path, needed))
    except OSError as error:
        raise ModelError(f"cannot read the model folder {str(path)!r}: {error.strerror}") from None


def _is_model(folder: Path, needed: tuple[str, ...]) -> bool:
    return not needed or any((folder / name).is_file() for name in needed)


def _says_nothing(folder: Path) -> bool:
    """Whether config.json has no size of a model: some write one with a model_type beside an adapter or GGUF files."""
    if not (folder / lora.CONFIG).is_file() and not next(folder.glob("*.gguf"), None):
        return False
    try:
        values = read_object(folder / CONFIG).values()
    except ModelError:
        return False
    return not any(isinstance(value, int | float | dict) for value in values)


def _names_no_model(folder: Path) -> bool:
    """Whether config.json is another program's: transformers writes the kind of model into each."""
    try:
        config = read_object(folder / CONFIG)
    except ModelError:  # missing, or damaged
        return False
    return not {"model_type", "architectures", "auto_map", "text_config"} & config.keys()


def _is_of_meta(folder: Path) -> bool:
    """Whether it is a Llama as Meta publishes it: its params.json is not Mistral's."""
    is_without = not (folder / CONFIG).is_file() and not has_consolidated(folder)
    return is_without and next(folder.glob("*.pth"), None) is not None


def _name(folder: Path) -> str:
    """The folder's name; of a snapshot in a Hugging Face cache the model's."""
    cached = _CACHED.fullmatch(folder.parent.parent.name) if folder.parent.name == _SNAPSHOTS else None
    return cached[1] if cached else folder.name


def _snapshot(cached: Path, needed: tuple[str, ...]) -> Model:
    """The snapshot of refs/main, or else the newest one. Raises ModelError if none is a model."""
    found = [folder for folder in _folders(cached / _SNAPSHOTS) if _is_model(folder, needed)]
    if not found:
        raise ModelError(
            f"{str(cached)!r} is a folder of a Hugging Face cache without a whole snapshot (none has "
            f"{' or '.join(needed)}): download the model again"
        )
    newest = max(found, key=lambda folder: (folder.stat().st_mtime, folder.name))
    commit = _main_commit(cached)
    main = next((folder for folder in found if folder.name == commit), None)
    chosen = main or newest
    why = "refs/main" if main else "the only one" if len(found) == 1 else f"the newest of {_listed(found)}"
    why += f"; refs/main names {commit}, which is not here, or not whole" if commit and not main else ""
    match = _CACHED.fullmatch(cached.resolve().name)
    note = f"MODEL is a folder of a Hugging Face cache: its snapshot {chosen.name} is used ({why})"
    return Model(str(chosen), match[1] if match else cached.name, note)


def _main_commit(cached: Path) -> str | None:
    try:
        text = read_regular(cached / "refs" / "main", 1 << 20).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def _not_a_folder(path: Path) -> str:
    said = f"{str(path)!r} is a file, not a model folder"
    if path.suffix == ".gguf":
        return f"{said}: vLLM by itself does not load GGUF files: use the model with config.json and safetensors files"
    if path.suffix == ".py":
        return f"{said}: --script FILE runs it on every rank, and --program FILE:NAME runs code of it beside a model's"
    if path.suffix in _WEIGHTS and (path.parent / CONFIG).is_file():
        return f"{said}: name its folder, {str(path.parent)!r}"
    return f"{said}: name the folder that holds {CONFIG}"


def _why_not(folder: Path, needed: tuple[str, ...]) -> str:
    """What a folder is that is not a model, and what to give instead."""
    said = f"{str(folder)!r} is not a model folder: it has no {' or '.join(needed)}"
    if (folder / lora.CONFIG).is_file():
        return _adapter(folder)
    if other := other_format(folder):
        return other
    inside = _folders(folder)
    checkpoints = [one for one in inside if re.fullmatch(r"checkpoint-[0-9]{1,15}", one.name)]
    if checkpoints:
        checkpoints.sort(key=lambda one: int(one.name.rpartition("-")[2]), reverse=True)
        return f"{said}, but checkpoints ({_listed(checkpoints)}): name one, as {str(checkpoints[0])!r}"
    models = [one for one in inside if _is_model(one, needed) or (one / _SNAPSHOTS).is_dir()]
    if models:
        return f"{said}; name a folder in it that is a model: {_listed(models, whole=True)}"
    definitions = [one for one in inside if (one / JOB_DEFINITION).is_file()]
    if definitions:
        return f"{said}; name a job definition in it: {_listed(definitions, whole=True)}"
    others = [name for name in (CONFIG, PARAMS) if name not in needed and (folder / name).is_file()]
    if others:
        return f"{said}, but {others[0]}: leave out --engine config_format"
    return said


def _adapter(folder: Path) -> str:
    """An adapter is no model: say of which one it is, and how it is used."""
    try:
        config = read_object(folder / lora.CONFIG)
    except ModelError:
        config = {}
    base, kind = (_plain(config.get(key)) for key in ("base_model_name_or_path", "peft_type"))
    said = f"{str(folder)!r} is an adapter{f' of {base}' if base else ''}, not a model"
    if kind.upper() not in ("", "LORA"):
        return f"{said}: vLLM runs LoRA adapters only, not {kind}: merge it into its model"
    name = re.sub(r"[^\w.-]+", "-", folder.name).strip("-.") or "adapter"
    path = _plain(str(folder)) or "FOLDER"
    return f"{said}: use 'vllm-hpc submit {shlex.quote(base or 'BASE')} --lora {shlex.quote(f'{name}={path}')}'"


def _plain(value: Any) -> str:
    """A string that can be part of a message and of a command; else empty."""
    is_plain = isinstance(value, str) and len(value) <= 300 and value.isprintable() and value == value.strip()
    return value if is_plain and not value.startswith("-") else ""


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; of a very large one, some."""
    return sorted(path for path in islice(folder.iterdir(), _MOST_LISTED) if path.is_dir())


def _listed(folders: list[Path], whole: bool = False) -> str:
    names = [repr(str(one)) if whole else repr(one.name) for one in folders[:_MOST_NAMED]]
    return ", ".join(names) + (f" and {len(folders) - _MOST_NAMED} more" if len(folders) > _MOST_NAMED else "")
