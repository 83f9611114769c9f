"""Container: the image that a job's ranks run in, and what runs it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.keys import key
from vllm_hpc.spec.no_secrets import check_line, check_no_secret

Runtime = Literal["apptainer", "singularity", "podman", "podman-hpc", "shifter", "charliecloud", "pyxis"]
# Of files; a folder and a name in a registry have none of them.
IMAGE_SUFFIXES = (".sif", ".sqsh", ".sqfs", ".squashfs")
_ABSOLUTE = ("/", "~", "$")
RUNTIMES: tuple[str, ...] = get_args(Runtime)


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
    options: Annotated[tuple[str, ...], key("more words of the runtime, such as --rocm", (), "on the node")] = ()
    python: Annotated[str, key("the Python of the image")] = "python3"
    bundle: Annotated[
        str | None, key("a folder of vllm-hpc bundle, for an image without vllm_hpc", (), "at submission")
    ] = None


def is_path(image: str) -> bool:
    """Whether a job's image is a file or a folder of the host; its path is absolute (containers/choose.py)."""
    return image.startswith("/")


class Bind(NamedTuple):
    """A folder or a file of the host, and where it is in the image.

    Both may hold variables of the node, $NAME and ${NAME:-default}; a dollar is written ``$$``. ``holds``: what is
    known of a variable's value, written like a path.
    """

    host: str
    inside: str
    read_only: bool = False
    holds: str = ""

    @classmethod
    def same(cls, path: str, read_only: bool = False) -> Bind:
        """One that has the same path in both, whatever is in its name."""
        text = path.replace("$", "$$")
        return cls(text, text, read_only)


def parse_bind(text: str, origin: str) -> Bind:
    """A bind of a profile, HOST[:INSIDE[:ro]]. Raises RequestError."""
    host, *rest = _split_bind(text)
    inside = rest[0] if rest else host
    flag = rest[1] if len(rest) > 1 else "rw"
    if len(rest) > 2 or flag not in ("ro", "rw") or not all(path.startswith(("/", "$")) for path in (host, inside)):
        raise RequestError(f"{origin} must be HOST[:INSIDE[:ro]] with absolute paths, not {text!r}")
    return Bind(host, inside, flag == "ro")


def _split_bind(text: str) -> list[str]:
    """Its parts; the colon of ${NAME:-default} parts nothing."""
    parts, depth = [""], 0
    for place, letter in enumerate(text):
        depth += (text[place : place + 2] == "${") - (letter == "}" and depth > 0)
        if letter == ":" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def check_container(value: Container | str, origin: str) -> None:
    """Check the table of a profile, or the image of --container, of which "" is none. Raises RequestError."""
    if isinstance(value, str):
        _check_image(value, origin)
        return
    check_no_secret(msgspec.to_builtins(value), origin)
    if value.image is not None:
        _check_image(value.image, f"{origin}.image")
        _check_absolute(value.image, f"{origin}.image")
    for bind in value.binds:
        _check_text(bind, f"{origin}.binds")
        parse_bind(bind, f"{origin}.binds")
    for word in value.options:
        _check_text(word, f"{origin}.options")
        check_line(word, f"{origin}.options", is_shell=False)
    _check_text(value.python, f"{origin}.python")
    if value.python.startswith("-"):
        raise RequestError(f"{origin}.python must be the image's Python, such as python3.12, not {value.python!r}")
    if value.bundle:
        _check_text(value.bundle, f"{origin}.bundle")
        if not value.bundle.startswith(_ABSOLUTE):
            raise RequestError(f"{origin}.bundle must be an absolute path, not {value.bundle!r}")


def check_bundle_path(path: str, origin: str) -> None:
    """Check the path of a bundle, which PYTHONPATH has in the image. Raises RequestError."""
    _check_text(path, origin)
    if ":" in path:
        raise RequestError(f"{origin} must be a path without ':', which parts the folders of PYTHONPATH, not {path!r}")


def _check_image(image: str, origin: str) -> None:
    if not image:
        return
    _check_text(image, origin)
    if image.startswith("-"):
        raise RequestError(f"{origin} must be an image, not {image!r}: an option of the runtime goes into its options")


def _check_absolute(image: str, origin: str) -> None:
    """Refuse a relative path in a profile, which is read in any folder."""
    is_file = image.endswith(IMAGE_SUFFIXES) and "://" not in image
    if image.startswith(".") or (is_file and not image.startswith(_ABSOLUTE)):
        raise RequestError(f"{origin} must be an absolute path, or a name in a registry, not {image!r}")


def _check_text(text: Any, origin: str) -> None:
    if not text or not text.isprintable() or text != text.strip():
        raise RequestError(
            f"{origin} {text!r} is empty, or has a newline, another control character, or leading or trailing space"
        )
