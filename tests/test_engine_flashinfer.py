"""FlashInfer's sampler is used where it can be compiled, and then by all ranks; else vLLM's own is, and is told of."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.real_jobs import check_complete, submit_tiny
from vllm_hpc.engine import flashinfer
from vllm_hpc.errors import RequestError

VARIABLE = flashinfer.VARIABLE
RANK = """
import os, sys
from pathlib import Path
from torch._C._distributed_c10d import TCPStore
from vllm_hpc.engine import flashinfer
rank, port = map(int, sys.argv[1:])
flashinfer._CUDA_HOME = Path("/nonexistent")
store = TCPStore("127.0.0.1", port, is_master=False)
flashinfer.agree(store, rank, 2)
print(os.environ.get(flashinfer.VARIABLE))
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a package may be put, for Python to find it."""
    monkeypatch.setattr(flashinfer, "_CUDA_HOME", Path("/nonexistent"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    _install(tmp_path / "site", "flashinfer")
    return tmp_path / "site"


def _install(site: Path, package: str) -> None:
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").write_text("raise AssertionError('imported: that starts CUDA')\n")
    importlib.invalidate_caches()


def _program(file: Path) -> str:
    """Make something that can be run; returns its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return str(file.parent)


def test_without_a_compiler_it_is_said_what_is_missing(site: Path, tmp_path: Path) -> None:
    ninja = _program(tmp_path / "tools/ninja")
    assert flashinfer.lack({"PATH": ninja}).startswith("no nvcc (load the site's CUDA module")
    _program(tmp_path / "cuda/bin/nvcc")
    assert flashinfer.lack({"PATH": str(tmp_path / "cuda/bin")}) == "no ninja (pip install ninja)"


@pytest.mark.parametrize(
    "names",
    [
        {"PATH": "{tools}:{cuda}/bin"},
        {"PATH": "{tools}", "CUDA_HOME": "{cuda}"},
        {"PATH": "{tools}", "CUDA_PATH": "{cuda}"},
        {"PATH": "{tools}", "CUDA_HOME": "{tools}", "FLASHINFER_NVCC": "{cuda}/bin/nvcc"},
    ],
)
def test_nvcc_is_found_where_flashinfer_looks(site: Path, tmp_path: Path, names: dict[str, str]) -> None:
    folders = {"tools": _program(tmp_path / "tools/ninja"), "cuda": str(tmp_path / "cuda")}
    _program(tmp_path / "cuda/bin/nvcc")
    assert flashinfer.lack({name: value.format(**folders) for name, value in names.items()}) == ""


def test_a_cuda_home_without_nvcc_hides_one_in_path(site: Path, tmp_path: Path) -> None:
    path = f"{_program(tmp_path / 'tools/ninja')}:{_program(tmp_path / 'cuda/bin/nvcc')}"
    assert "no nvcc" in flashinfer.lack({"PATH": path, "CUDA_HOME": str(tmp_path / "elsewhere")})


def test_an_nvcc_without_its_toolkit_is_none(site: Path, tmp_path: Path) -> None:
    nvcc = f"{_program(tmp_path / 'cuda/bin/nvcc')}/nvcc"
    assert "no nvcc" in flashinfer.lack({"PATH": _program(tmp_path / "tools/ninja"), "FLASHINFER_NVCC": nvcc})


def test_nothing_is_missing_where_it_is_compiled_already_or_asked_for_or_absent(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flashinfer.lack({"PATH": "", VARIABLE: "1"}) == ""  # then vLLM says what is wrong
    assert flashinfer.lack({"PATH": "", VARIABLE: "0"}) == f"{VARIABLE}=0"
    assert "FLASHINFER_DISABLE_JIT" in flashinfer.lack({"PATH": "", "FLASHINFER_DISABLE_JIT": "1"})
    assert "no nvcc" in flashinfer.lack({"PATH": ""})
    _install(site, "flashinfer_jit_cache")
    assert flashinfer.lack({"PATH": ""}) == ""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    importlib.invalidate_caches()
    assert flashinfer.lack({"PATH": ""}) == ""


@pytest.mark.parametrize(
    ("has_compiler", "given", "expected"),
    [
        ((True, True), None, ["None", "None"]),
        ((True, False), None, ["0", "0"]),
        ((False, False), None, ["0", "0"]),
        ((False, False), "1", ["1", "1"]),
    ],
)
def test_all_ranks_sample_alike(
    tmp_path: Path, has_compiler: tuple[bool, bool], given: str | None, expected: list[str]
) -> None:
    from torch._C._distributed_c10d import TCPStore

    _install(tmp_path / "site", "flashinfer")
    tools = _program(tmp_path / "bin/ninja")
    _program(tmp_path / "bin/nvcc")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    clean = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "CUDA_HOME", "CUDA_PATH")}
    clean |= {"PYTHONPATH": f"{tmp_path / 'site'}:{Path.cwd()}"} | ({VARIABLE: given} if given else {})
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, str(rank), str(store.port)],
            env=clean | {"PATH": tools if has else "/nonexistent"}, stdout=subprocess.PIPE, text=True,
        )
        for rank, has in enumerate(has_compiler)
    ]  # fmt: skip
    said = [rank.communicate(timeout=100)[0].splitlines() for rank in ranks]
    assert [lines[-1] for lines in said] == expected
    for rank, lines in enumerate(said):
        told = [line for line in lines if line.startswith("vllm-hpc: FlashInfer's sampler cannot be compiled")]
        assert len(told) == (expected[rank] == "0")
        assert not told or ("here" if not has_compiler[rank] else "for rank 1") in told[0]


def test_ranks_that_are_told_different_things_end_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._C._distributed_c10d import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set("vllm-hpc/flashinfer/1", "no nvcc")
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(RequestError, match=f"{VARIABLE}=1 here, and not for rank 1: set it for all"):
        flashinfer.agree(store, 0, 2)


def test_programs_beside_python_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    flashinfer.find_scripts()
    flashinfer.find_scripts()
    assert os.environ["PATH"] == f"/usr/bin:{sysconfig.get_path('scripts')}"


@pytest.mark.vllm
def test_a_rank_says_which_sampler_it_takes(tiny: Path, reference: list[str], tmp_path: Path) -> None:
    _install(tmp_path / "site", "flashinfer")
    job = submit_tiny(tiny, tmp_path, tp=2, env={"PYTHONPATH": str(tmp_path / "site"), "CUDA_HOME": "/nonexistent"})
    check_complete(job, reference)
    for rank in (0, 1):
        log = job.folder.rank_log(rank).read_text()
        assert "FlashInfer's sampler cannot be compiled here, so that vLLM samples by its own: no nvcc" in log
