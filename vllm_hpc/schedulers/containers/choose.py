"""Which image a job runs in, and what runs it: --container's and the profile's, or what the image's form says."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from vllm_hpc.schedulers.containers.bundle import check_bundle
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.spec.container import IMAGE_SUFFIXES, RUNTIMES, Container, check_bundle_path, check_container, is_path
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import as_path, check_path

# Runtimes of an image by its suffix, the one that is taken first.
_BY_SUFFIX = {
    ".sif": ("apptainer", "singularity"),
    ".sqsh": ("pyxis", "apptainer", "singularity", "charliecloud"),
    ".sqfs": ("charliecloud", "apptainer", "singularity", "pyxis"),
    ".squashfs": ("charliecloud", "apptainer", "singularity", "pyxis"),
}
# NAME[:TAG][@DIGEST], where a registry may have a port.
_IN_A_REGISTRY = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._/-]*(:[0-9]+/[A-Za-z0-9._/-]+)?(:[\w.-]+)?(@\w+:[0-9a-f]+)?", re.ASCII
)
_LONGEST = 500
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
    origin = "--container" if asked is not None else "the profile's container.image"
    check_container(container.image, origin)
    image = _as_image(container.image, origin)
    runtime = container.runtime or _runtime_of(image, origin)
    suits = _suiting(image, origin)
    if suits and runtime not in suits:
        raise RequestError(f"{origin} {image!r} is an image for {suits[0]}, not for {runtime}: set container.runtime")
    bundle = _as_bundle(container.bundle) if container.bundle else None
    return msgspec.structs.replace(container, image=image, runtime=runtime, bundle=bundle)


def choose_image(asked: str | None, of_site: Container | None, scheduler: str) -> Container:
    """The container of a job whose scheduler runs the image itself, and so without a runtime. Raises RequestError."""
    container = of_site or Container()
    origin = "--container" if asked is not None else "the profile's container.image"
    image = container.image if asked is None else asked
    if not image:
        raise RequestError(
            f"the scheduler {scheduler} runs images: give one with --container, or container in a profile"
        )
    if not _IN_A_REGISTRY.fullmatch(image) or image.endswith(IMAGE_SUFFIXES) or len(image) > _LONGEST:
        raise RequestError(
            f"{origin} must be an image in a registry for the scheduler {scheduler}, such as vllm/vllm-openai:v0.26.0, "
            f"not {image!r}"
        )
    for key in ("runtime", "binds", "options"):
        if getattr(container, key):
            raise RequestError(
                f"container.{key} must be left out for the scheduler {scheduler}, which runs the image itself"
            )
    bundle = _as_bundle(container.bundle) if container.bundle else None
    return msgspec.structs.replace(container, image=image, bundle=bundle)


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


def _as_bundle(bundle: str) -> str:
    path = str(as_path(bundle, "container.bundle").absolute())
    check_bundle_path(path, "container.bundle")
    return path


def _as_image(image: str, origin: str) -> str:
    """The image with the absolute path of what is a file or a folder."""
    if _REFERENCE.match(image):
        return image
    is_here = image.startswith(("/", "./", "../", "~")) or Path(image).suffix in _BY_SUFFIX or _is_dir(image, origin)
    if not is_here:
        return image
    path = str(as_path(image, origin).absolute())
    check_path(path, origin)
    return path


def _is_dir(image: str, origin: str) -> bool:
    return as_path(image, origin).is_dir()


def _suiting(image: str, origin: str) -> tuple[str, ...]:
    """The runtimes that such an image is for; none where its name does not tell."""
    if not is_path(image):
        return ()
    return _BY_SUFFIX.get(Path(image).suffix, _FOLDERS if _is_dir(image, origin) else ())


def _runtime_of(image: str, origin: str) -> str:
    suits = _suiting(image, origin)
    if not suits:
        raise RequestError(
            f"{origin} {image!r} does not tell what runs it (a .sif is Apptainer's, a .sqsh Pyxis's, a folder "
            f"Charliecloud's): write container = {{ runtime = ... }} in the profile, one of {', '.join(RUNTIMES)}"
        )
    return suits[0]
