"""Marks of tests that need what the test suite runs without: torch, or vLLM's own code."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., None])

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
needs_hub = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs huggingface_hub")
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")


def beside_vllm(test: Test) -> Test:
    """Holds ours against vLLM's own code, in this process: slow, for that import alone takes ten seconds.

    Of the workers of a run only one imports it, which is the one that starts vLLM.
    """
    marked: Test = pytest.mark.slow(pytest.mark.xdist_group("vllm")(needs_vllm(test)))
    return marked
