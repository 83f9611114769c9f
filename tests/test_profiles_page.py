"""docs/profiles.md lists every key of a profile, and of the tables in it, as spec/profile.py has them.

After a wanted change: ``VLLM_HPC_UPDATE_DOCS=1 pytest tests/test_profiles_page.py``, and read the diff.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import pytest

from tests.generated_tables import check_table
from vllm_hpc.spec.container import Container
from vllm_hpc.spec.keys import Key, keys_of
from vllm_hpc.spec.kubernetes import Kubernetes, Volume
from vllm_hpc.spec.profile import Profile, Queue

pytestmark = pytest.mark.admins

PAGE = Path(__file__).parents[1] / "docs" / "profiles.md"
UPDATE = "VLLM_HPC_UPDATE_DOCS=1 pytest tests/test_profiles_page.py"
TABLES: dict[str, type[msgspec.Struct]] = {
    "profile": Profile, "queue": Queue, "container": Container, "kubernetes": Kubernetes, "volume": Volume,
}  # fmt: skip
NAMES = {"slurm": "Slurm", "pbs": "PBS", "kubernetes": "Kubernetes", "local": "local"}
PLAIN = {str: "text", int: "number", float: "number", bool: "true or false"}


def kind_of(kind: Any) -> str:
    """What a value of the key is, in a few words."""
    if get_origin(kind) in (UnionType, Union):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    while hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    origin = get_origin(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if origin is tuple:
        return "list of texts"
    if origin is dict:
        return "tables" if is_table(get_args(kind)[1]) else "table"
    return "table" if is_table(kind) else PLAIN[kind]


def is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def row(key: Key, default: Any) -> str:
    shown = "true" if default is True else default
    by_default = f" (default: `{shown}`)" if isinstance(shown, str) and shown else ""
    schedulers = ", ".join(NAMES[name] for name in key.schedulers)
    return f"| `{key.name}` | {kind_of(key.kind)} | {key.meaning}{by_default} | {schedulers} | {key.expanded} |"


def table(struct: type[msgspec.Struct]) -> str:
    rows = [row(key, getattr(struct(), name)) for name, key in keys_of(struct).items()]
    return "\n".join(["| key | value | | of | variables |", "| --- | --- | --- | --- | --- |", *rows])


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_every_key(name: str) -> None:
    check_table(PAGE, name, table(TABLES[name]), UPDATE)


def test_the_examples_of_the_page_are_profiles() -> None:
    """Both files of an example, which are one block."""
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    files = re.split(r"(?m)^# (?=/etc|~)", example)[1:]
    assert len(files) == 2
    for file in files:
        tables = tomllib.loads(file.split("\n", 1)[1])["profiles"]
        msgspec.convert(tables["borealis"], Profile)
