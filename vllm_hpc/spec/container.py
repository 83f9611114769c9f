"""Container: the image that a job's ranks run in, and what runs it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vllm_hpc.spec.keys import key

Runtime = Literal["apptainer", "singularity", "podman", "podman-hpc", "shifter", "charliecloud", "pyxis"]


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The image of a job's ranks: the batch script runs on the host, torchrun and the ranks in the image."""

    runtime: Annotated[Runtime | None, key("what runs the image")] = None
    image: Annotated[str | None, key("the image: a file, a folder, or a name in a registry", (), "at submission")] = (
        None
    )
    binds: Annotated[
        tuple[str, ...],
        key("more folders of the host, HOST[:INSIDE[:ro]]; the job's are bound by themselves", (), "on the node"),
    ] = ()
    options: Annotated[tuple[str, ...], key("more words of the runtime, such as --rocm")] = ()
    python: Annotated[str, key("the Python of the image")] = "python3"
    bundle: Annotated[
        str | None, key("a folder of vllm-hpc bundle, for an image without vllm_hpc", (), "at submission")
    ] = None
