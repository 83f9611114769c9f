"""A package whose bytecode is not kept is told of, with what helps."""

from __future__ import annotations

import importlib
import py_compile
import sys
from pathlib import Path

import pytest

from vllm_hpc.engine.vllm_engine import _tell_of_bytecode


def test_a_package_without_bytecode_is_told_of_once_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "site packages/slow_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    module = importlib.import_module("slow_package")
    _tell_of_bytecode(module)
    told = capfd.readouterr().out
    assert "slow_package's bytecode is not cached" in told
    assert f"python -m compileall -q '{package.parent}', or use --env PYTHONPYCACHEPREFIX=FOLDER" in told
    py_compile.compile(str(package / "__init__.py"))
    _tell_of_bytecode(module)
    assert capfd.readouterr().out == ""
