"""FlashInfer's sampler is used where it can be compiled, and then by all ranks; else vLLM's own is, and is told of."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.real_jobs import check_complete, submit_tiny
from vllm_hpc.engine.startup import flashinfer
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.spec.errors import RequestError

VARIABLE = flashinfer.VARIABLE
# What a rank does, once for each environment; what is installed on this machine is hidden from it.
RANK = """
import contextlib, io, json, os, sys
from pathlib import Path
from vllm_hpc.engine.startup import flashinfer
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.messages import Address
rank, port, environments = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
sys.path = [entry for entry in sys.path if "site-packages" not in entry]
flashinfer._CUDA_HOME = Path("/nonexistent")
store = JobStore(Address("127.0.0.1", port), b"secret", 60)
for number, environment in enumerate(environments):
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        flashinfer.agree(store.under(f"{number}/"), rank, 2)
    print(json.dumps([os.environ.get(flashinfer.VARIABLE), told.getvalue().splitlines()]))
"""
# Which of two ranks has a compiler, what the job has set; and what each has then.
AGREED: dict[str, tuple[tuple[bool, bool], str | None, str | None]] = {
    "both can compile": ((True, True), None, None),
    "the first can": ((True, False), None, "0"),
    "neither can": ((False, False), None, "0"),
    "it is asked for": ((False, False), "1", "1"),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a package may be put, for Python to find it; what this machine has of CUDA and packages is hidden."""
    monkeypatch.setattr(flashinfer, "_CUDA_HOME", Path("/nonexistent"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *(one for one in sys.path if "site-packages" not in one)])
    for package in ("flashinfer", "flashinfer_jit_cache"):
        monkeypatch.delitem(sys.modules, package, raising=False)
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


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str | None, list[str]]]]:
    """What each of two ranks has and says, by case: two processes for all of them."""
    work = tmp_path_factory.mktemp("agreed")
    _install(work / "site", "flashinfer")
    tools = _program(work / "bin/ninja")
    _program(work / "bin/nvcc")
    store = StoreServer(b"secret", "127.0.0.1")
    path = {"PYTHONPATH": f"{work / 'site'}:{Path(__file__).parents[2]}"}
    ranks = []
    for rank in (0, 1):
        environments = [
            {"PATH": tools if has_compiler[rank] else "/nonexistent"} | ({VARIABLE: given} if given else {})
            for has_compiler, given, _ in AGREED.values()
        ]
        words = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            RANK,
            str(rank),
            str(store.address.port),
            json.dumps(environments),
        ]
        ranks.append(subprocess.Popen(words, env=os.environ | path, stdout=subprocess.PIPE, text=True))
    said = [map(json.loads, rank.communicate(timeout=300)[0].splitlines()) for rank in ranks]
    return dict(zip(AGREED, map(list, zip(*said, strict=True)), strict=True))


@pytest.mark.parametrize("case", AGREED)
def test_all_ranks_sample_alike(agreed: dict[str, list[tuple[str | None, list[str]]]], case: str) -> None:
    has_compiler, _, expected = AGREED[case]
    for rank, (variable, lines) in enumerate(agreed[case]):
        assert variable == expected
        told = [line for line in lines if line.startswith("vllm-hpc: FlashInfer's sampler cannot be compiled")]
        assert len(told) == (expected == "0")
        assert not told or ("here" if not has_compiler[rank] else "for rank 1") in told[0]


def test_ranks_that_are_told_different_things_end_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(StoreServer(b"secret", "127.0.0.1").address, b"secret", 5)
    store.set("flashinfer/1", "no nvcc")
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(RequestError, match=f"{VARIABLE}=1 here, but not for rank 1: set it for all ranks"):
        flashinfer.agree(store, 0, 2)


def test_programs_beside_python_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    flashinfer.find_scripts()
    flashinfer.find_scripts()
    assert os.environ["PATH"] == f"/usr/bin:{sysconfig.get_path('scripts')}"


@pytest.mark.vllm
@pytest.mark.full
def test_a_rank_says_which_sampler_it_takes(
    tiny: Path, reference: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path / "site", "flashinfer")
    for name in (VARIABLE, "FLASHINFER_DISABLE_JIT", "FLASHINFER_NVCC"):
        monkeypatch.delenv(name, raising=False)
    job = submit_tiny(tiny, tmp_path, tp=2, env={"PYTHONPATH": str(tmp_path / "site"), "CUDA_HOME": "/nonexistent"})
    check_complete(job, reference)
    for rank in (0, 1):
        log = job.folder.rank_log(rank).read_text()
        assert "FlashInfer's sampler cannot be compiled here, so vLLM uses its own: no nvcc" in log
