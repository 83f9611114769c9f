"""Inspects a model without loading it: its shape and its weights, or why they are unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.planner.models import hub
from vllm_hpc.planner.models.config import Shape, read_shape
from vllm_hpc.planner.models.count import doubt_of
from vllm_hpc.planner.models.describe import Description, describe
from vllm_hpc.planner.models.explain import explain_shape
from vllm_hpc.planner.models.fields import OVERRIDES, Fields, NotCheckedError, whole_number
from vllm_hpc.planner.models.quantization import check_loadable
from vllm_hpc.planner.models.read_json import read_object
from vllm_hpc.planner.models.size import indexed_size, read_size, weights_of_size
from vllm_hpc.planner.models.weights import Weights, check_whole, read_weights
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.resolved_job import Model

_NOT_CHECKED = "memory is not checked: "


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """A model's shape, None if unknown, for the reason in ``notes``; weights None: counted from its config.

    ``is_unsized``: there is a model, and not even the size of its weights can be told.
    ``template_bytes``: the length of its chat template, None if it has none; ``max_tokens``: the default from its
    generation_config.json, None if it sets none. ``is_whole``: all of its small files are here. ``unweighed``: why its
    weights can be neither read nor counted. ``mtp_layers``: its heads for multi-token prediction.
    """

    shape: Shape | None = None
    weights: Weights | None = None
    mtp_layers: int = 0
    template_bytes: int | None = None
    max_tokens: int | None = None
    is_whole: bool = True
    unweighed: str | None = None
    is_unsized: bool = False
    notes: tuple[str, ...] = ()


def inspect_model(
    model: Model, dummy_weights: bool = False, engine: Mapping[str, Any] | None = None, cache: Path | None = None
) -> Knowledge:
    """Inspect a model's folder, the Hugging Face cache, or the Hub. Raises ModelError for a damaged model.

    ``dummy_weights``: vLLM generates random weights, so the files are not needed. Of the arguments of ``engine``,
    config_format, hf_overrides and load_format count. ``cache``: where ranks look for models of the Hub.
    """
    engine, folder = engine or {}, Path(model.path)
    if folder.is_absolute():
        if not folder.is_dir():
            return Knowledge(notes=("nothing is known about the model: it is created when the job is submitted",))
        return _of_folder(folder, dummy_weights, engine, is_whole=True)
    found = hub.find_config(model.path, cache)
    if isinstance(found, str):
        return Knowledge(is_unsized=True, notes=(f"nothing is known about the model: {found}",))
    known = _of_folder(found, dummy_weights, engine, is_whole=False)
    if known.weights or dummy_weights:
        return known
    weights = hub.find_weights(model.path)
    unweighed = None if weights else known.unweighed
    return msgspec.structs.replace(
        known, weights=weights, unweighed=unweighed, is_unsized=known.is_unsized and not weights
    )


def _of_folder(folder: Path, dummy_weights: bool, engine: Mapping[str, Any], is_whole: bool) -> Knowledge:
    """Inspect a folder; one that is not whole (a cache) may have no weights."""
    notes: list[str] = []
    try:
        described = describe(folder, engine)
        notes += described.notes
        check_loadable(Fields(described.config, described.origin), engine.get("quantization"))
        shape = _shape(folder, described, engine)
    except NotCheckedError as error:
        weights = _sized(folder, engine, is_whole and not dummy_weights)
        return Knowledge(weights=weights, is_unsized=weights is None, notes=(*notes, f"{_NOT_CHECKED}{error}"))
    tokenizer_config = folder / "tokenizer_config.json"
    tokenizer = read_object(tokenizer_config) if tokenizer_config.is_file() else {}
    shape = _shortened(shape, tokenizer)
    weights = None if dummy_weights else _weights(folder, shape, engine, is_whole)
    weights = weights or _indexed(folder, shape, engine)
    notes += explain_shape(shape, described.file, weights)
    unweighed = None
    if weights is None:
        if shape.quantization and shape.quantization.bits is None:
            method = shape.quantization.method
            unweighed = f"memory is not checked: the planner cannot size {method} weights from {described.file}"
        else:
            notes.append(f"weights are counted from {described.file}: there are no safetensors files here")
    return Knowledge(
        shape=shape,
        weights=weights,
        mtp_layers=whole_number(described.config.get("num_nextn_predict_layers")) or 0,
        template_bytes=_template_bytes(folder, tokenizer),
        max_tokens=_generation_limit(folder),
        is_whole=is_whole or (folder / "generation_config.json").is_file(),
        unweighed=unweighed,
        notes=tuple(notes),
    )


def _shape(folder: Path, described: Description, engine: Mapping[str, Any]) -> Shape:
    """The shape; what only the overrides have made unreadable is said of them. Raises ModelError."""
    try:
        return read_shape(described.config, described.origin)
    except ModelError:
        if not engine.get("hf_overrides"):
            raise
    try:
        plain = describe(folder, {**engine, "hf_overrides": None})
        read_shape(plain.config, plain.origin)
    except ModelError:  # so the file is to blame
        return read_shape(described.config, described.origin)
    return read_shape(described.config, OVERRIDES)


def _weights(folder: Path, shape: Shape, engine: Mapping[str, Any], is_whole: bool) -> Weights | None:
    """The weights in the folder's files. Raises ModelError if these are damaged and should be whole."""
    weights = None
    try:
        weights = read_weights(folder, shape, engine.get("load_format"))
        if weights:
            check_whole(folder, shape, weights)
    except ModelError:
        if is_whole:
            raise
    return weights


def _indexed(folder: Path, shape: Shape, engine: Mapping[str, Any]) -> Weights | None:
    """The weights by the index alone, of a shape that is not exact; not if the user has changed the shape."""
    size = indexed_size(folder) if doubt_of(shape) and not engine.get("hf_overrides") else None
    return weights_of_size(size, shape.dtype, shape.quantization is not None) if size else None


def _sized(folder: Path, engine: Mapping[str, Any], is_whole: bool) -> Weights | None:
    """The weights by their files or their index, of whatever class. Raises ModelError as above."""
    try:
        return read_size(folder, engine)
    except ModelError:
        if is_whole:
            raise
    return None


def _shortened(shape: Shape, tokenizer: dict[str, Any]) -> Shape:
    """The shape with the tokenizer's length limit, if that is smaller."""
    limit = whole_number(tokenizer.get("model_max_length"))
    if limit is None or not 0 < limit < shape.positions:
        return shape
    return msgspec.structs.replace(shape, positions=limit)


def _template_bytes(folder: Path, tokenizer: dict[str, Any]) -> int | None:
    """The chat template is a separate file, or a string (or several, by name) in tokenizer_config.json."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.stat().st_size
    template = tokenizer.get("chat_template")
    return None if template is None else len(json.dumps(template, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _generation_limit(folder: Path) -> int | None:
    """max_new_tokens in generation_config.json, which vLLM uses as the default of max_tokens."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    value = whole_number(read_object(path).get("max_new_tokens"))
    return value if value is not None and 0 < value < 1_000_000_000 else None
