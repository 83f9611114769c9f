"""To be imported before vLLM: its kernels for GPUs then run on the CPU, by Triton's interpreter."""

from __future__ import annotations

import os
from unittest import mock

os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}  # read by triton, and by vllm.triton_utils

from vllm import platforms

assert platforms.current_platform.is_cpu()  # found out now: it reads the version too
_matches = platforms.vllm_version_matches_substr
# A vLLM for the CPU does without Triton.
with mock.patch.object(platforms, "vllm_version_matches_substr", lambda text: text != "cpu" and _matches(text)):
    from vllm.triton_utils import HAS_TRITON

__all__ = ["HAS_TRITON"]
