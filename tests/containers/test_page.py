"""docs/containers.md names every key of a container and every runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import inspect

from vllm_hpc.spec.container import RUNTIMES, Container

pytestmark = pytest.mark.admins
PAGE = (Path(__file__).parents[2] / "docs" / "containers.md").read_text(encoding="utf-8")


def test_every_key_is_in_the_table() -> None:
    kind = inspect.type_info(Container)
    assert isinstance(kind, inspect.StructType)
    for field in kind.fields:
        assert isinstance(field.type, inspect.Metadata)
        assert field.type.extra_json_schema is not None
        assert f"| `{field.name}` | {field.type.extra_json_schema['description']} |" in PAGE


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_is_in_the_table(name: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| ") and f"`{name}`" in line.split("|")[1]]
    assert len(row.split("|")) == 6
