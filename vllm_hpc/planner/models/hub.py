"""Finds the config.json of a Hugging Face Hub model in the local cache, or downloads it.

This needs huggingface_hub, which a login node may not have.
"""

from __future__ import annotations

import os
from importlib import util
from pathlib import Path

from vllm_hpc.planner.models.mistral import CONFIG, PARAMS
from vllm_hpc.planner.models.other_formats import format_of
from vllm_hpc.planner.models.size import INDEXES, indexed_size
from vllm_hpc.planner.models.weights import Weights
from vllm_hpc.spec import lora
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.model_cache import find_snapshot, says_offline
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.secret_shapes import redact

# Seconds to wait for the Hub; a login node without internet access must not delay a submit.
TIMEOUT_S = 5.0
# What changes which models a rank finds, in a variable, a line of a profile's setup, or an engine argument.
_OTHER_ACCESS = ("HF_", "HUGGING", "MODELSCOPE", "proxy", "PROXY", "source ", ". /", "download_dir", "hf_token")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1, "I16": 2, "I32": 4, "I64": 8}


class NotOnHubError(ModelError):
    """The Hub answered, and this user does not get the model."""


def asks_as_ranks_do(job: ResolvedJob) -> bool:
    """Whether ranks ask the same Hub, as the same user: unless the job or its site names another, or a cache."""
    request = job.request
    given = [
        *request.env,
        *job.site.setup,
        *(name for name in ("download_dir", "hf_token") if request.engine.get(name)),
    ]
    is_elsewhere = bool(os.environ.get("VLLM_USE_MODELSCOPE"))
    return not is_elsewhere and not any(sign in text for text in given for sign in _OTHER_ACCESS)


def find_config(model: str, cache: Path | None = None) -> Path | str:
    """The folder with the config.json of a Hub id, or the reason why there is none.

    ``cache``: where the job's ranks look first; what is downloaded here goes into the user's own. Raises NotOnHubError
    if the Hub says that there is no such model, or that this user may not have it.
    """
    snapshot = find_snapshot(cache, model) if cache else None
    if snapshot and any((snapshot / name).is_file() for name in (CONFIG, PARAMS)):
        return snapshot
    if util.find_spec("huggingface_hub") is None:
        return "huggingface_hub is not installed here, so its config.json cannot be read"
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(model, "config.json")
    if isinstance(cached, str):
        return Path(cached).parent
    if is_offline_here():
        return "it is not in the Hugging Face cache, and HF_HUB_OFFLINE is set"
    try:
        # One request without retries: a download would retry for half a minute on a node without internet access.
        info = huggingface_hub.model_info(model, timeout=TIMEOUT_S)
        _check_files(model, [file.rfilename for file in info.siblings or ()])
        return Path(huggingface_hub.hf_hub_download(model, "config.json", etag_timeout=TIMEOUT_S)).parent
    except NotOnHubError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the reason, the compute nodes may still reach the Hub
        if no := refusal(model, error):
            raise NotOnHubError(no) from None
        said = redact(" ".join(str(error).split()))[:120]
        return f"it is not in the Hugging Face cache, and the Hub did not return it ({type(error).__name__}: {said})"


_BAD_TOKEN = "Invalid credentials in Authorization header"
_TOKEN = "set HF_TOKEN, or log in with 'hf auth login'"


def refusal(model: str, error: Exception) -> str | None:
    """What the Hub said of this model and this user, and what to do; None if it said nothing of them.

    huggingface_hub (utils/_http.py, hf_raise_for_status) tells by X-Error-Code: GatedRepo, RepoNotFound. A 401 for a
    repository without one also means that it is not there, or private.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):  # it is a RepositoryNotFoundError too
        return (
            f"the model {model!r} is gated on the Hub, and this account may not read it: ask for access at "
            f"{endpoint()}/{model}, and {_TOKEN}"
        )
    response = error.response if isinstance(error, errors.HfHubHTTPError) else None
    is_unauthorized, is_token = False, False
    if response is not None:  # not its truth, which is false for errors in requests
        is_unauthorized = response.status_code == 401
        is_token = is_unauthorized and response.headers.get("X-Error-Message") == _BAD_TOKEN
    if is_token:
        return f"the Hub does not accept this account's token, for the model {model!r}: {_TOKEN}"
    if isinstance(error, errors.RepositoryNotFoundError) or is_unauthorized:
        return (
            f"the Hub has no model {model!r} that this account may read: check how it is spelt, or, if it is private, "
            f"{_TOKEN}"
        )
    if isinstance(error, errors.DisabledRepoError):
        return f"the Hub has disabled the model {model!r}: use another one"
    return None


def _check_files(model: str, names: list[str]) -> None:
    """Refuse a repository without a description of a model. Raises NotOnHubError: what it has instead."""
    if not names or {CONFIG, PARAMS} & set(names):
        return
    raise NotOnHubError(f"the model {model!r} of the Hub has no {CONFIG} or {PARAMS}{_kind(names)}")


def _kind(names: list[str]) -> str:
    """What a repository is instead of a model, as a part of a sentence."""
    if lora.CONFIG in names:
        return ", and is an adapter: download it ('hf download'), and name it with --lora and its base model as MODEL"
    other = format_of(names)
    return f", and {other}" if other else ": use a model with one"


def endpoint() -> str:
    """The Hub, or a mirror of it."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def find_weights(model: str) -> Weights | None:
    """The Hub's metadata of a model's weights, None if it has none: the headers of its files, or its index's size."""
    if util.find_spec("huggingface_hub") is None or is_offline_here():
        return None
    import huggingface_hub

    try:
        counts = huggingface_hub.get_safetensors_metadata(model).parameter_count
    except Exception:  # noqa: BLE001 - the caller then counts from config.json, and says so
        return _find_size(model)
    floats = sum(count for dtype, count in counts.items() if dtype in _FLOATS)
    return Weights(floats, sum(count * _BYTES.get(dtype, 1) for dtype, count in counts.items() if dtype not in _FLOATS))


def _find_size(model: str) -> Weights | None:
    """The size that one of a model's indexes on the Hub tells, None without one."""
    import huggingface_hub

    for name in INDEXES:
        try:
            path = huggingface_hub.hf_hub_download(model, name, etag_timeout=TIMEOUT_S)
        except Exception:  # noqa: BLE001 - as above
            continue
        size = indexed_size(Path(path).parent)
        return Weights(0, size) if size else None
    return None


def is_offline_here() -> bool:
    """Whether this process must not ask the Hub."""
    return says_offline(os.environ)
