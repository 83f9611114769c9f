"""Which image a job runs in, and what runs it: --container's and the profile's, or what the image's form says."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from vllm_hpc.schedulers.containers.bundle import check_bundle
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.spec.container import RUNTIMES, Container, is_path
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import as_path, check_path

# Runtimes of an image by its suffix, the one that is taken first.
_BY_SUFFIX = {
    ".sif": ("apptainer", "singularity"),
    ".sqsh": ("pyxis", "apptainer", "singularity", "charliecloud"),
    ".sqfs": ("charliecloud", "apptainer", "singularity", "pyxis"),
    ".squashfs": ("charliecloud", "apptainer", "singularity", "pyxis"),
}
_REFERENCE = re.compile(r"[a-z][a-z0-9+-]*://", re.IGNORECASE)
_FOLDERS = ("charliecloud", "apptainer", "singularity")


def choose_container(asked: str | None, of_site: Container | None) -> Container | None:
    """The container of a job, with its image and its runtime; None if it runs on the host. Raises RequestError.

    ``asked``: the image of --container, which has the profile's runtime; "" is none.
    """
    container = of_site or Container()
    if asked is not None:
        container = msgspec.structs.replace(container, image=asked)
    if not container.image:
        return None
    image = _as_image(container.image)
    origin = "--container" if asked is not None else "the profile's container.image"
    runtime = container.runtime or _runtime_of(image, origin)
    suits = _suiting(image)
    if suits and runtime not in suits:
        raise RequestError(f"{origin} {image!r} is an image for {suits[0]}, not for {runtime}: set container.runtime")
    bundle = str(as_path(container.bundle, "container.bundle").absolute()) if container.bundle else None
    return msgspec.structs.replace(container, image=image, runtime=runtime, bundle=bundle)


def check_runs_here(container: Container, scheduler: str, launcher: str, is_built_in: bool) -> None:
    """Whether that scheduler and launcher can start what the runtime runs. Raises RequestError."""
    runtime = CONTAINER_RUNTIMES[str(container.runtime)]
    if runtime.schedulers and scheduler not in runtime.schedulers:
        known = ", ".join(name for name, one in CONTAINER_RUNTIMES.items() if not one.schedulers)
        raise RequestError(
            f"container.runtime {runtime.name} is part of srun, but the scheduler is {scheduler}: use one of {known}"
        )
    if runtime.is_of_srun and not is_built_in:
        raise RequestError(
            f"container.runtime {runtime.name} is part of srun, which --launcher {launcher} does not call: use "
            "--launcher torchrun or srun"
        )


def check_is_there(container: Container) -> None:
    """Whether the image and the bundle are there, where that can be seen, and the bundle is ours. Raises RequestError.

    Nobody but the user and those whom they trust can have written the bundle: its code runs as the user.
    """
    image = str(container.image)
    if is_path(image) and not Path(image).exists():
        raise RequestError(f"no such image: {image!r}: give its path as the nodes see it, and one that is here, too")
    if container.bundle:
        check_bundle(Path(container.bundle))


def _as_image(image: str) -> str:
    """The image with the absolute path of what is a file or a folder."""
    if _REFERENCE.match(image):
        return image
    is_here = image.startswith(("/", "./", "../", "~")) or Path(image).suffix in _BY_SUFFIX or _is_dir(image)
    if not is_here:
        return image
    path = str(as_path(image, "--container").absolute())
    check_path(path, "--container")
    return path


def _is_dir(image: str) -> bool:
    return as_path(image, "--container").is_dir()


def _suiting(image: str) -> tuple[str, ...]:
    """The runtimes that such an image is for; none where its name does not tell."""
    if not is_path(image):
        return ()
    return _BY_SUFFIX.get(Path(image).suffix, _FOLDERS if _is_dir(image) else ())


def _runtime_of(image: str, origin: str) -> str:
    suits = _suiting(image)
    if not suits:
        raise RequestError(
            f"{origin} {image!r} does not tell what runs it (a .sif is Apptainer's, a .sqsh Pyxis's, a folder "
            f"Charliecloud's): write container = {{ runtime = ... }} in the profile, one of {', '.join(RUNTIMES)}"
        )
    return suits[0]
