"""Site and user profiles: TOML tables ``[profiles.NAME]`` that fill in options that were not given.

The first of the files (spec/config_files.py) with that name wins. A profile says what is run as whoever submits: a
file of another user is refused, unless that user is trusted (spec/trusted_owners.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.spec.bounds import MOST_GPU_GIB
from vllm_hpc.spec.config_files import PROJECT_FILE, profile_files
from vllm_hpc.spec.errors import ProfileError, RequestError
from vllm_hpc.spec.gpus import find_gpu
from vllm_hpc.spec.messages import explain_mismatch
from vllm_hpc.spec.no_secrets import check_option
from vllm_hpc.spec.ownership import is_fixed
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.registry import LAUNCHERS, SCHEDULERS
from vllm_hpc.spec.toml_file import parse_toml
from vllm_hpc.spec.trusted_owners import TRUSTED_OWNERS, NotTrustedError, check_trusted_owners, owner_of, read_trusted
from vllm_hpc.spec.values import CHECKS, as_path, check_words, megabytes

# How many names an error lists.
_MOST_NAMES = 30


class FoundProfile(NamedTuple):
    """A profile, and the file that it comes from; None without a profile."""

    profile: Profile = Profile()
    file: Path | None = None

    def where(self, name: str | None) -> str | None:
        """Which profile it is, of which file, whose, and whether others can replace it; None without a profile."""
        if self.file is None:
            return None
        owner = owner_of(self.file)
        belongs = f", which belongs to {owner}" if owner else ""
        place = "" if is_fixed(self.file.resolve().parent) else ", in a folder that others can write to"
        return f"profile {name!r} is of {self.file}{belongs}{place}"


def load_profile(name: str | None) -> Profile:
    """The profile of that name; None gives an empty one. Raises ProfileError with file and line."""
    return find_profile(name).profile


def find_profile(name: str | None) -> FoundProfile:
    """Read that profile, and say from where; None gives an empty one. Raises ProfileError with file and line."""
    if name is None:
        return FoundProfile()
    known: list[str] = []
    for path in profile_files():
        tables = _read_tables(path)
        if name in tables:
            return FoundProfile(_build(path, name, tables[name]), path.absolute())
        known += tables
    where = " or ".join(str(path) for path in profile_files())
    names = sorted(set(known))
    shown = ", ".join([*names[:_MOST_NAMES], *(["..."] if len(names) > _MOST_NAMES else [])])
    hint = f"known: {shown}" if known else f"write a [profiles.{name}] table there"
    raise ProfileError(f"no profile {name!r} in {where}: {hint}")


def _read_tables(path: Path) -> dict[str, Any]:
    """The profiles in a file; none if the file does not exist."""
    try:
        content = parse_toml(read_trusted(path), path)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ProfileError(f"{path}: cannot be read: it is a link to a file that does not exist") from None
        return {}
    except NotTrustedError as error:
        raise ProfileError(str(error)) from None
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ProfileError(str(error)) from None
    _check_keys(path, content)
    tables = content.get("profiles", {})
    if not isinstance(tables, dict):
        raise ProfileError(f"{path}:{_line_of(path, None, 'profiles')}: 'profiles' must hold tables [profiles.NAME]")
    return tables


def _check_keys(path: Path, content: dict[str, Any]) -> None:
    for key in content:
        if key not in ("profiles", TRUSTED_OWNERS):
            raise ProfileError(
                f"{path}:{_line_of(path, None, key)}: unknown key '{key}': profiles are tables [profiles.NAME]"
            )
    if TRUSTED_OWNERS not in content:
        return
    place = f"{path}:{_line_of(path, None, TRUSTED_OWNERS)}"
    if path == Path(PROJECT_FILE):
        raise ProfileError(
            f"{place}: '{TRUSTED_OWNERS}' must be in the user's or the site's file, not in the working directory's"
        )
    try:
        check_trusted_owners(content[TRUSTED_OWNERS])
    except ValueError as error:
        raise ProfileError(f"{place}: {error}") from None


def _build(path: Path, name: str, table: Any) -> Profile:
    if not isinstance(table, dict):
        raise ProfileError(f"{path}:{_line_of(path, None, name)}: 'profiles.{name}' must be a table [profiles.{name}]")
    for key in table:
        if key not in Profile.__struct_fields__:
            takes = ", ".join(Profile.__struct_fields__)
            raise ProfileError(f"{path}:{_line_of(path, name, key)}: unknown key '{key}': a profile takes {takes}")
    try:
        profile = msgspec.convert(table, Profile)
    except msgspec.ValidationError as error:
        key, words = explain_mismatch(error, Profile) or (name, str(error))
        raise ProfileError(f"{path}:{_line_of(path, name, key)}: '{key}' {words}") from None
    for key in table:
        try:
            _check(profile, key)
            if key == "template_dir":
                profile = msgspec.structs.replace(profile, template_dir=_template_folder(path, table[key]))
        except RequestError as error:
            raise ProfileError(f"{path}:{_line_of(path, name, key)}: {error}") from None
    return profile


def _check_node(profile: Profile, key: str) -> None:
    if profile.gpus_per_node is None:
        raise RequestError(f"'{key}' needs gpus_per_node, for the part of it that belongs to a job's GPUs")
    if key == "mem_per_node" and not megabytes(profile.mem_per_node or ""):
        raise RequestError(f"'mem_per_node' must be an amount of memory, such as 480G, not {profile.mem_per_node!r}")


def _check(profile: Profile, key: str) -> None:
    """Check one value of a profile, alone and against the others. Raises RequestError."""
    value = getattr(profile, key)
    check_option(value, key)
    if key in CHECKS:
        CHECKS[key](value, key)
    if key == "scheduler" and (value == "auto" or not SCHEDULERS.has(value)):
        raise RequestError(f"'scheduler' {SCHEDULERS.must_be(value, but=['auto'])}")
    if key == "launcher" and not LAUNCHERS.has(value):
        raise RequestError(f"'launcher' {LAUNCHERS.must_be(value)}")
    if key in ("cpus_per_node", "mem_per_node"):
        _check_node(profile, key)
    if key == "wrapper":
        check_words(value, key)
    if key == "gpu":
        find_gpu(value, "'gpu'")
    if key == "gpu_memory_gib" and not 1 <= value <= MOST_GPU_GIB:
        raise RequestError(f"'gpu_memory_gib' must be a GPU's memory in GiB, from 1 to {MOST_GPU_GIB:g}, not {value}")
    if key == "head_command" and profile.head_suffix:
        raise RequestError("'head_command' and 'head_suffix' are both given, but both name the head node: choose one")


def _template_folder(path: Path, given: str) -> str:
    """The folder of templates, resolved against the folder of the profile's file. Raises RequestError."""
    folder = path.parent / as_path(given, "template_dir")
    if not folder.is_dir():
        raise RequestError(f"'template_dir': no such folder: {str(folder)!r}: make it, or leave the key out")
    return str(folder)


def _line_of(path: Path, name: str | None, key: str) -> int:
    """The line (from 1) of ``key`` in the table of profile ``name``, or at the top level if name is None.

    tomllib gives no positions, but TOML headers and keys start a line, which is enough here.
    """
    table: str | None = None
    lines = read_trusted(path).decode("utf-8-sig").splitlines()
    for number, line in enumerate(lines, start=1):
        header = re.match(r"\s*\[+\s*(.+?)\s*\]+", line)
        if header:
            table = header[1].replace('"', "").replace("'", "")
            if table.split(".")[0] == key and name is None:
                return number
            if table == f"profiles.{name}.{key}":
                return number
        inside = table in (None, "profiles") if name is None else table == f"profiles.{name}"
        if inside and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
            return number
    return 1
