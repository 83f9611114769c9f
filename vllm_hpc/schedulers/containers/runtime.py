"""What a container runtime is given, and what it is: a function from that to the words in front of a command."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vllm_hpc.spec.container import Bind


class ImageRun(msgspec.Struct, frozen=True, kw_only=True):
    """A command's start in an image: what every runtime is told, each in its own words.

    ``gpu``: nvidia, amd, or empty. ``workdir`` is a path of the image. ``has_environment``: it is a folder with an
    environment as Charliecloud keeps it. Binds may hold variables of the node
    (spec/container.py); so may words, in which a dollar is written ``$$``.
    """

    image: str
    binds: tuple[Bind, ...] = ()
    options: tuple[str, ...] = ()
    gpu: str = ""
    workdir: str = "/"
    has_environment: bool = False


class ContainerRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """A container runtime, which is called ``program`` on a node.

    ``words`` are those before the command that is to run in the image. If ``is_of_srun``, they are options of srun,
    whose whole task then runs in the image. ``unfit`` is a pattern of the characters that a bind cannot have, as the
    runtime has no quoting for them; ``schedulers``: those that it goes with, none for all. ``needs_tmp``: the host's
    /tmp, in which ranks and script tell each other of a drain, is not in the image by itself. ``has_read_only``: it can
    bind so.
    """

    name: str
    program: str
    words: Callable[[ImageRun], tuple[str, ...]]
    unfit: str = ""
    schedulers: tuple[str, ...] = ()
    is_of_srun: bool = False
    needs_tmp: bool = False
    has_read_only: bool = True
