"""Where vllm-hpc caches what it can rebuild: the converted demo model, compiled templates, archives of compiled code.

Some of it is code, which would run as the user: it is kept only where nobody else can write.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from vllm_hpc.spec.ownership import is_mine_alone

# The profile's cache_dir, for ranks: a name of vllm-hpc's own, which users do not set.
SHARED = "VLLM_HPC_CACHE_DIR"


def cache_folder() -> Path:
    """The user's cache folder: $XDG_CACHE_HOME/vllm-hpc, by default ~/.cache/vllm-hpc; of ranks, in ``cache_dir``.

    The shared cache has one for each user, for what is in it runs as them. Where others can write to that, or put
    another in its place, a private folder of this machine. Raises FileNotFoundError if the user has no home folder, as
    in some containers, PermissionError if there is no private one.
    """
    if shared := os.environ.get(SHARED):
        own = Path(shared) / f"vllm-hpc-{os.getuid()}"
        with suppress(OSError):
            own.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_mine_alone(own):
                return own
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-hpc"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None
    with suppress(OSError):  # a cache that cannot be made holds nothing; whoever writes to it will say so
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if not folder.is_dir() or is_mine_alone(folder) else machine_folder() / "cache"


def machine_folder() -> Path:
    """A folder of this machine that nobody else can write to, under $TMPDIR. Raises PermissionError.

    Anybody can take its name in /tmp first: then it has another, which is found again, as nobody else can make a folder
    of this user's.
    """
    place, name = Path(tempfile.gettempdir()), f"vllm-hpc-{os.getuid()}"
    if place.name.startswith(name) and _is_own(place):  # a rank's $TMPDIR
        return place
    folder = place / name
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    for one in (folder, *sorted(place.glob(f"{name}-*"))):
        if _is_own(one):
            return one
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
    if not _is_own(made):
        made.rmdir()
        raise PermissionError(f"$TMPDIR ({place}) must be your own folder, or have the sticky bit, as /tmp has")
    return made


def use_private_temporary_folder() -> None:
    """Make $TMPDIR of this process, and of those that it starts, a folder that nobody else can write to.

    torch and vLLM load code from files of known names in it (torchinductor_<user>, nccl_allocator.so). Raises
    PermissionError.
    """
    if not is_mine_alone(Path(tempfile.gettempdir())):
        os.environ["TMPDIR"] = str(machine_folder())
        tempfile.tempdir = None


def _is_own(folder: Path) -> bool:
    with suppress(OSError):
        return not folder.is_symlink() and is_mine_alone(folder)
    return False
