"""Whether vLLM can sample with FlashInfer here: nvcc and ninja compile its sampler when it is first used.

vLLM (0.26, 0.32) uses it for top-k and top-p by default, without looking for a compiler: on a node without one, as
compute nodes often are, the engine dies when it starts (vLLM's issue 49497). vLLM's own sampler needs no compiler.
Ranks of one model must draw the same tokens, so the ranks of a job agree: all use FlashInfer's sampler, or all vLLM's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_hpc.spec.errors import RequestError

if TYPE_CHECKING:
    from vllm_hpc.engine.store.client import JobStore

VARIABLE = "VLLM_USE_FLASHINFER_SAMPLER"
# Where FlashInfer looks last (0.6, flashinfer/jit/cpp_ext.py, get_cuda_path).
_CUDA_HOME = Path("/usr/local/cuda")


def find_scripts() -> None:
    """Put this Python's own scripts at the end of PATH: ninja is one, and a job's script activates no environment."""
    scripts = sysconfig.get_path("scripts")
    path = os.environ.get("PATH", os.defpath)
    if scripts not in path.split(os.pathsep):
        os.environ["PATH"] = f"{path}{os.pathsep}{scripts}"


def agree(store: JobStore, rank: int, world_size: int) -> None:
    """Let all ranks use vLLM's own sampler if one cannot compile FlashInfer's. Call it before the engine starts.

    A job that has set VLLM_USE_FLASHINFER_SAMPLER keeps its choice. Raises RequestError if the ranks' choices differ.
    """
    own = lack(os.environ)
    store.set(f"flashinfer/{rank}", own)
    said = store.wait([f"flashinfer/{other}" for other in range(world_size)])
    lacking = {other: text for other, text in enumerate(said) if text}
    if not lacking or os.environ.get(VARIABLE) == "0":
        return
    if VARIABLE in os.environ:
        raise RequestError(
            f"{VARIABLE}={os.environ[VARIABLE]} here, but not for rank {min(lacking)}: set it for all ranks"
        )
    os.environ[VARIABLE] = "0"
    where, what = ("here", own) if own else (f"for rank {min(lacking)}", lacking[min(lacking)])
    print(
        f"vllm-hpc: FlashInfer's sampler cannot be compiled {where}, so vLLM uses its own: {what}",
        flush=True,
    )


def lack(environment: Mapping[str, str]) -> str:
    """What is missing for FlashInfer's sampler, and how to get it; "" if nothing is, or it is not installed."""
    if environment.get(VARIABLE) == "0":
        return f"{VARIABLE}=0"
    if not _is_installed("flashinfer") or _is_installed("flashinfer_jit_cache") or environment.get(VARIABLE):
        return ""
    path = environment.get("PATH", os.defpath)
    if environment.get("FLASHINFER_DISABLE_JIT"):
        return "FLASHINFER_DISABLE_JIT is set (install flashinfer-jit-cache)"
    if not _finds_nvcc(environment, path):
        return "no nvcc (load the site's CUDA module in the job's setup, or install flashinfer-jit-cache)"
    if shutil.which("ninja", path=path) is None:
        return "no ninja (pip install ninja)"
    return ""


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None  # an import of it would start CUDA


def _finds_nvcc(environment: Mapping[str, str], path: str) -> bool:
    """Look for nvcc as FlashInfer does: it needs a CUDA toolkit's folder even if a variable names an nvcc."""
    found = shutil.which("nvcc", path=path)
    home = (
        environment.get("CUDA_HOME") or environment.get("CUDA_PATH") or (str(Path(found).parents[1]) if found else "")
    )
    if not home and not _CUDA_HOME.exists():
        return False
    nvcc = environment.get("FLASHINFER_NVCC") or f"{home or _CUDA_HOME}/bin/nvcc"
    return shutil.which(nvcc, path=path) is not None
