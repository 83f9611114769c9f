"""A bundle: a folder with vllm_hpc and what its ranks import beside vLLM, for an image that lacks them.

``first`` has vllm_hpc and its metadata, for torchrun and submitit find it by entry points; PYTHONPATH names it.
``last`` has the packages of others, which vllm_hpc puts last on sys.path: the image's own win.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path

import msgspec

from vllm_hpc import __version__
from vllm_hpc.spec.errors import FailedError, RequestError
from vllm_hpc.spec.ownership import is_fixed, write_mine
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.trusted_owners import NotTrustedError, read_trusted

PACKAGES = ("submitit", "cloudpickle", "typing_extensions", "msgspec", "psutil", "jinja2", "markupsafe")
# Of the standard library from 3.14 on.
_ZSTD = "backports.zstd"
_MINOR = re.compile(r"3\.(1[1-9]|[2-9][0-9])")
_RECORD = "bundle.json"
_METADATA = ("METADATA", "entry_points.txt", "WHEEL")
_TIMEOUT_S = 600


class Bundle(msgspec.Struct, frozen=True):
    """bundle.json: the minor version of Python that it is for, and what is in it."""

    python: str
    versions: dict[str, str]


def make_bundle(folder: Path, python: str) -> Bundle:
    """Make a bundle for that minor version of Python. Raises RequestError, FailedError; then there is no folder.

    Packages are of this installation's versions: from here if they are for the same Python, else from the index that
    pip uses.
    """
    if not _MINOR.fullmatch(python):
        raise RequestError(f"--python must be the minor version of the image's Python, 3.11 or newer, not {python!r}")
    with _writable_by_the_owner_alone():
        return _make(folder, python)


@contextmanager
def _writable_by_the_owner_alone() -> Iterator[None]:
    """A project's umask may let its group write, and what is in a bundle is run."""
    before = os.umask(0o022)
    os.umask(before | 0o022)
    try:
        yield
    finally:
        os.umask(before)


def _make(folder: Path, python: str) -> Bundle:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RequestError(f"{str(folder)!r} is there already: remove it, or choose another folder") from None
    except OSError as error:
        raise RequestError(f"{str(folder)!r} cannot be made: {error.strerror}") from None
    try:
        return _fill(folder, python)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_bundle(folder: Path) -> None:
    """Whether the folder is a bundle of this version, which nobody can have changed. Raises RequestError."""
    advice = f"make it with 'vllm-hpc bundle --python MINOR {folder}'"
    try:
        bundle = msgspec.json.decode(read_trusted(folder / _RECORD), type=Bundle)
        fixed = is_fixed(folder.resolve(strict=True))
    except NotTrustedError as error:
        raise RequestError(f"container.bundle: {error}") from None
    except (OSError, msgspec.DecodeError):
        raise RequestError(f"container.bundle {str(folder)!r} is no folder of vllm-hpc bundle: {advice}") from None
    if not fixed:
        raise RequestError(f"container.bundle {str(folder)!r}: others can change what is in it: move it")
    found = bundle.versions.get("vllm-hpc")
    if found != __version__:
        raise RequestError(
            f"container.bundle {str(folder)!r} has vllm-hpc {found}, and this is {__version__}: remove it, and {advice}"
        )


def _fill(folder: Path, python: str) -> Bundle:
    first, last = folder / "first", folder / "last"
    names = PACKAGES if int(python.partition(".")[2]) >= 14 else (*PACKAGES, _ZSTD)
    _copy_ours(first)
    last.mkdir()
    versions = {name: version(name) for name in names if _is_installed(name)}
    if python == ".".join(platform.python_version_tuple()[:2]):
        for name in versions:
            _copy_files(distribution(name), last)
    else:
        _install(last, python, versions)
    bundle = Bundle(python, {"vllm-hpc": __version__, **versions})
    write_mine(folder / _RECORD, msgspec.json.format(msgspec.json.encode(bundle)) + b"\n")
    return bundle


def _copy_ours(target: Path) -> None:
    """vllm_hpc as it is here, and of its metadata what makes it be found."""
    package = Path(__file__).parents[2]
    shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    info = target / f"vllm_hpc-{__version__}.dist-info"
    info.mkdir()
    ours = distribution("vllm-hpc")
    for name in _METADATA:
        if text := ours.read_text(name):
            write_mine(info / name, text.encode())


def _is_installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _copy_files(package: Distribution, target: Path) -> None:
    """What an installation has of a package, but for its scripts."""
    for file in package.files or ():
        source = Path(str(package.locate_file(file)))
        if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
            continue
        place = target / file
        place.parent.mkdir(parents=True, exist_ok=True)
        write_mine(place, read_regular(source), 0o755 if source.suffix == ".so" else 0o644)


def _install(target: Path, python: str, versions: dict[str, str]) -> None:
    """Have pip fetch them for another Python. Raises FailedError."""
    argv = [
        sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--no-compile", "--only-binary=:all:", f"--python-version={python}", f"--target={target}",
        *(f"{name}=={text}" for name, text in versions.items()),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedError(f"pip did not answer: {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
        raise FailedError(f"pip could not get the packages for Python {python}: {lines[-1].removeprefix('ERROR: ')}")
