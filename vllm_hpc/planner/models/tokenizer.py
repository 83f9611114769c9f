"""What is here of a model's tokenizer and chat template, and what a job would fail without.

Only small files are read, and where vLLM may know better nothing is said: custom code, Mistral's tokenizers, models
that vLLM renders itself.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.planner.models.cached import why_not_cached
from vllm_hpc.planner.models.inspect import Knowledge
from vllm_hpc.planner.models.mistral import CONFIG, PARAMS
from vllm_hpc.planner.models.read_json import read_object
from vllm_hpc.planner.models.tokenizer_files import has_files, lacks_vocabulary
from vllm_hpc.planner.models.weight_files import lacks_weights
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.errors import ModelError, RequestError
from vllm_hpc.spec.lora import find_adapters
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.vllm_arguments import templated_models

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
# Files with chat templates, and files with a key chat_template; the first of each are a tokenizer's, the others only a
# processor's.
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_CONFIGS = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_MOST_NAMED = 5
_MISTRAL, _MISTRAL_WEIGHTS = ("tekken.json", "tokenizer.model.v*"), ("consolidated*.safetensors",)
# Model types that vLLM has a template for (vllm/transformers_utils/chat_templates/registry.py, 0.26 and 0.32).
_FALLBACKS = frozenset({
    "blip-2", "chameleon", "clip", "colpali", "deepseek_ocr", "deepseek_ocr2", "unlimited-ocr", "unlimited_ocr",
    "deepseek_vl_v2", "minicpmv", "minicpmv4_6", "minicpmv4_7", "paligemma", "siglip", "siglip2",
})  # fmt: skip
# Beginnings of the architectures whose chats vLLM renders itself (vllm/config/model.py, 0.26 and 0.32).
_RENDERED = ("DeepseekV32", "DeepseekV4", "KimiK3", "Inkling", "MoonshotKimia")
# Values of tokenizer_mode that mean transformers' tokenizers.
_PLAIN_MODES = (None, "auto", "hf", "slow")


class MissingFile(msgspec.Struct, frozen=True):
    """Something that a job needs and that is not here. ``fails``: the job would fail for it, so it is not submitted."""

    said: str
    fails: bool


def with_template(known: Knowledge, job: ResolvedJob) -> Knowledge:
    """What is known about the model, with the length of the chat template that the job uses instead of the model's."""
    if job.chat_template is not None:
        return msgspec.structs.replace(known, template_bytes=len(job.chat_template.encode()))
    if job.request.engine.get("tokenizer"):
        return msgspec.structs.replace(known, template_bytes=None)
    return known


def find_missing(job: ResolvedJob, rows: Workload | None) -> list[MissingFile]:
    """What the job lacks of tokenizer and chat template; nothing for a rehearsal, or where it cannot be told.

    ``rows``: what is known of the input, None without one.
    """
    engine, model = job.request.engine, Path(job.model.path)
    folder = _tokenizer_folder(job)
    if job.request.rehearse or folder is None:
        return []
    if job.chat_template is not None and _is_mistral(engine, folder):
        advice = "leave --chat-template out, or use --engine tokenizer_mode=hf"
        return [
            MissingFile(f"vLLM takes no chat template with the Mistral tokenizer of {str(folder)!r}: {advice}", True)
        ]
    can_judge = _can_judge(folder, model)
    if _is_special(engine) or not (can_judge or _is_of_mistral(model)):
        return []
    found = []
    config = _json(model / CONFIG)
    lacks = None if _makes_tokenizer(config) else lacks_vocabulary(folder)
    # A folder with neither weights nor tokenizer is not complete yet.
    is_begun = lacks is None or has_files(folder)
    fails = is_begun or folder != model or engine.get("load_format") == "dummy" or _any(model, _WEIGHTS)
    if lacks:
        found.append(MissingFile(f"{str(folder)!r} {lacks}: use --engine tokenizer=PATH, or copy its files", fails))
    is_judged = can_judge and not _is_mistrals(engine)
    if is_judged and rows and rows.has_chats and job.chat_template is None:
        advice = "use --chat-template FILE"
        if not _has_template(folder, model, _TEMPLATES, _CONFIGS):
            said = f"the input has chats, but {str(folder)!r} has no chat template"
            found.append(MissingFile(f"{said}: {advice}, or a model that is made for chats", fails))
        elif rows.has_tools and not _has_template(folder, model, _TEMPLATES[:1], _CONFIGS[:1]):
            said = f"the input has tools, with which vLLM takes no processor's chat template, and {str(folder)!r}"
            found.append(MissingFile(f"{said} has no other: {advice}", fails))
        elif named := _lacks_named(folder, model, rows):
            found.append(MissingFile(f"{named}: write one into a file, and {advice}", fails))
    return found


def find_unusable_adapters(job: ResolvedJob) -> list[MissingFile]:
    """Why the adapters of --lora are refused, which a plan says and does not depend on."""
    try:
        find_adapters(job.request.lora)
    except RequestError as error:
        return [MissingFile(str(error), True)]
    return []


def find_unready(job: ResolvedJob) -> str | None:
    """What must be in the model's folder before the job is submitted: weights, but for a rehearsal."""
    folder = Path(job.model.path)
    if job.request.rehearse:
        return None
    if not folder.is_absolute() or not folder.is_dir():
        return why_not_cached(job)
    return lacks_weights(folder, job.request.engine) or why_not_cached(job)


def with_missing(plan: Plan, job: ResolvedJob, rows: Workload | None) -> Plan:
    """The plan, with what the job lacks among its reasons; ``rows`` is what is known of the input, None without one."""
    files, unready = [*find_missing(job, rows), *find_unusable_adapters(job)], find_unready(job)
    missing = next((file.said for file in files if file.fails), None)
    said = (*(file.said for file in files), *filter(None, [unready]))
    return msgspec.structs.replace(plan, missing=missing, unready=unready, reasons=(*plan.reasons, *said))


def _tokenizer_folder(job: ResolvedJob) -> Path | None:
    """The folder that the tokenizer is loaded from, None if it is not here."""
    given = job.request.engine.get("tokenizer")
    folder = as_path(given, "--engine tokenizer") if isinstance(given, str) and given else Path(job.model.path)
    return folder if folder.is_dir() and (given or folder.is_absolute()) else None


def _is_mistral(engine: dict[str, Any], folder: Path) -> bool:
    """Whether vLLM takes Mistral's own tokenizer (vllm/tokenizers/registry.py, resolve_tokenizer_args)."""
    mode = engine.get("tokenizer_mode", "auto")
    return mode == "mistral" or (mode == "auto" and _any(folder, _MISTRAL) and _any(folder, _MISTRAL_WEIGHTS))


def _is_special(engine: dict[str, Any]) -> bool:
    """Whether the engine's arguments make the tokenizer, or what the model is, another thing than its files say."""
    return bool(
        engine.get("skip_tokenizer_init")
        or engine.get("tokenizer_mode") not in (*_PLAIN_MODES, "mistral")
        or _makes_another(engine.get("hf_overrides"))
        or engine.get("hf_config_path")
        or engine.get("model_impl") == "terratorch"
        or engine.get("config_format") not in (None, "auto", "hf", "mistral")
    )


def _is_mistrals(engine: dict[str, Any]) -> bool:
    """Whether the engine's arguments ask for Mistral's own formats, in which chats need no template."""
    return engine.get("tokenizer_mode") == "mistral" or engine.get("config_format") == "mistral"


def _is_of_mistral(model: Path) -> bool:
    """Whether a model is described by Mistral's params.json alone: it needs a tokenizer, and chats may need nothing."""
    return (model / PARAMS).is_file() and not (model / CONFIG).exists()


def _makes_another(overrides: object) -> bool:
    """Whether hf_overrides name another model: those of lengths or rope leave the tokenizer as it is."""
    if not isinstance(overrides, dict):
        return bool(overrides)
    return any(key in ("architectures", "model_type", "auto_map", "tokenizer_class") for key in overrides)


def _can_judge(folder: Path, model: Path) -> bool:
    """Whether the files tell: vLLM may take a Mistral tokenizer, and renders some models' chats itself."""
    config = _json(model / CONFIG)
    names = config.get("architectures") if config else None
    architectures = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return config is not None and not _any(folder, _MISTRAL) and not any(map(_is_rendered, architectures))


def _is_rendered(architecture: str) -> bool:
    return architecture.startswith((*_RENDERED, "Terratorch", "Prithvi"))


def _makes_tokenizer(config: dict[str, Any] | None) -> bool:
    """Whether config.json names code that makes the tokenizer: beside the model, on the Hub, or in transformers."""
    config = config or {}
    own = config.get("auto_map")
    names_code = isinstance(own, dict) and any("Tokenizer" in name or "Processor" in name for name in own)
    return names_code or config.get("tokenizer_class") is not None


def _lacks_named(folder: Path, model: Path, rows: Workload) -> str | None:
    """What rows find no template among several, each with a name.

    transformers 5 (tokenization_utils_base.py, get_chat_template) takes tool_use for rows with tools, else default; and
    fails without a default. vLLM takes a processor's before, for rows without tools.
    """
    names = _template_names(folder)
    if not names or "default" in names or _may_be_elsewhere(folder, model):
        return None
    is_processors = (folder / _TEMPLATES[1]).is_file() or any(
        _config_has_template(folder / one) for one in _CONFIGS[1:]
    )
    if rows.has_plain_chats and not is_processors:
        missing = "chats without tools, which need the chat template 'default'"
    elif rows.has_tools and "tool_use" not in names:
        missing = "chats with tools, which need the chat template 'tool_use' or 'default'"
    else:
        return None
    return f"the input has {missing}, and {str(folder)!r} has only {', '.join(map(repr, sorted(names)[:_MOST_NAMED]))}"


def _template_names(folder: Path) -> set[str]:
    """Names of the tokenizer's chat templates; a single one is the default. Files replace those of its config."""
    files = {file.name.removesuffix(".jinja") for file in (folder / "additional_chat_templates").glob("*.jinja")}
    if (folder / _TEMPLATES[0]).is_file():
        files.add("default")
    given = (_json(folder / _CONFIGS[0]) or {}).get("chat_template")
    if files or given is None:
        return files
    named = given if isinstance(given, list) else []
    return {str(one["name"]) for one in named if isinstance(one, dict) and "name" in one} or {"default"}


def _has_template(folder: Path, model: Path, files: tuple[str, ...], configs: tuple[str, ...]) -> bool:
    """Whether these files have a chat template, or whether there may be one elsewhere."""
    if any((folder / name).is_file() for name in files) or _any(folder / "additional_chat_templates", ("*.jinja",)):
        return True
    return _may_be_elsewhere(folder, model) or any(_config_has_template(folder / name) for name in configs)


def _may_be_elsewhere(folder: Path, model: Path) -> bool:
    """Whether there may be a template in code, in a GGUF, or in vLLM."""
    if _any(folder, ("*.gguf", "tokenization_*.py", "processing_*.py")):
        return True
    config = _json(model / CONFIG) or {}
    return str(config.get("model_type")) in _FALLBACKS | templated_models() or _makes_tokenizer(config)


def _config_has_template(file: Path) -> bool:
    if not file.exists():
        return False
    content = _json(file)
    return content is None or content.get("chat_template") is not None or content.get("auto_map") is not None


def _any(folder: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a folder has a file of such a name; True where it cannot be listed."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _json(file: Path) -> dict[str, Any] | None:
    """An object of JSON; None if it is missing or damaged."""
    try:
        return read_object(file)
    except ModelError:
        return None
