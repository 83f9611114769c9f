"""A module is changed as it is imported, before anybody has taken names from it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.engine.programs.late_imports import when_imported

pytestmark = pytest.mark.programs


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose own __init__ takes a name from its module, as torch.distributed does."""
    name = f"late_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from .inner import value\n")
    (tmp_path / name / "inner.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    return name


def change(module: Any) -> None:
    module.value += 1


def test_a_module_is_changed_once_and_first(package: str) -> None:
    finders = list(sys.meta_path)
    when_imported(f"{package}.inner", change)
    when_imported(f"{package}.inner", change)
    assert importlib.import_module(package).value == 3
    assert sys.meta_path == finders
    assert importlib.reload(sys.modules[f"{package}.inner"]).value == 1


def test_a_module_that_is_there_is_changed_at_once(package: str) -> None:
    module = importlib.import_module(f"{package}.inner")
    when_imported(f"{package}.inner", change)
    assert module.value == 2


def test_a_module_that_is_not_there_stays_an_import_error(package: str) -> None:
    when_imported(f"{package}.nothing", change)
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module(f"{package}.nothing")
