"""Container: the image that a job's ranks run in, and what runs it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Runtime = Literal["apptainer", "singularity", "podman", "podman-hpc", "shifter", "charliecloud", "pyxis"]


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The image of a job's ranks: the batch script runs on the host, torchrun and the ranks in the image."""

    runtime: Annotated[Runtime | None, Meta(description="what runs the image")] = None
    image: Annotated[str | None, Meta(description="the image: a file, a folder, or a name in a registry")] = None
    binds: Annotated[
        tuple[str, ...],
        Meta(description="more folders of the host, HOST[:INSIDE[:ro]]; the job's are bound by themselves"),
    ] = ()
    options: Annotated[tuple[str, ...], Meta(description="more words of the runtime, such as --rocm")] = ()
    python: Annotated[str, Meta(description="the Python of the image")] = "python3"
    bundle: Annotated[str | None, Meta(description="a folder of vllm-hpc bundle, for an image without vllm_hpc")] = None
