"""Compiled code is kept: a folder on each node, an archive in the user's cache."""

from __future__ import annotations

import os
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crafted import make_job
from vllm_hpc.engine.startup import compile_cache
from vllm_hpc.engine.startup.compile_cache import CompiledCode, files_in
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.layout import Layout, Place

ONE = Layout(nodes=1, gpus_per_node=2, procs_per_node=2, tp=2, pp=1, dp=1)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's folder for temporary files; the cache is in tmp_path/cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    (tmp_path / "node").mkdir()
    return tmp_path / "node"


def record(tmp_path: Path, **changes: Any) -> JobRecord:
    job = tmp_path / "job"
    folder = JobFolder(job) if job.exists() else make_job(job, [{"prompt": "a"}], shape=ONE)
    changed: JobRecord = msgspec.structs.replace(folder.job(), **changes)
    return changed


def start(tmp_path: Path, rank: int = 0, **changes: Any) -> tuple[CompiledCode, Path]:
    """A rank's start, and the folder that vLLM is pointed to (/none: to no other than without us)."""
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"):
        os.environ.pop(name, None)
    compiled = CompiledCode(record(tmp_path, **changes), ONE.place(rank), rank)
    compiled.restore()
    return compiled, Path(os.environ.get("VLLM_CACHE_ROOT", "/none"))


def archives(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.tar"))


def compile_something(folder: Path, name: str = "a/model.so", text: str = "code") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def another_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "other"))


def test_what_one_job_compiles_the_next_finds_on_any_node(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, folder = start(tmp_path)
    assert folder.is_relative_to(node)
    assert not list(folder.rglob("*"))
    compile_something(folder)
    compile_something(folder, "gpu_p2p_access_cache_for_0,1.json")  # true of this node only
    compiled.keep()
    compile_something(folder, "b/late.so")
    compiled.keep()
    another_node(tmp_path, monkeypatch)
    _, there = start(tmp_path)
    assert there.is_relative_to(tmp_path / "other")
    assert sorted(path.name for path in there.rglob("*") if path.is_file()) == ["late.so", "model.so"]
    assert (there / "a/model.so").read_text() == "code"


def test_what_others_are_compiling_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """Triton writes into folders of its own, which it renames when they are whole."""
    folder = tmp_path / "folder"
    for name in ("vllm/whole", "triton/tmp.pid_7/part", "vllm/lock.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a")
    assert files_in(folder) == ["vllm/whole"]


def test_folders_that_go_while_they_are_listed_are_passed_over(tmp_path: Path) -> None:
    """Of another job on the node; some 70 of 300 listings by Path.rglob met one."""
    folder, ends = tmp_path / "folder", threading.Event()
    (folder / "triton").mkdir(parents=True)
    (folder / "triton" / "whole").write_text("a")

    def churn() -> None:
        while not ends.is_set():
            for number in range(20):
                (folder / "triton" / str(number)).mkdir()
            for number in range(20):
                (folder / "triton" / str(number)).rmdir()

    other = threading.Thread(target=churn)
    other.start()
    try:
        assert all(files_in(folder) == ["triton/whole"] for _ in range(500))
    finally:
        ends.set()
        other.join()


def test_an_archive_is_used_again_whatever_the_umask(
    tmp_path: Path, node: Path, request: pytest.FixtureRequest
) -> None:
    """With 002 in a project's group, others could write to it: every start compiled again."""
    before = os.umask(0o002)
    request.addfinalizer(lambda: os.umask(before))
    code, folder = start(tmp_path)
    compile_something(folder)
    code.keep()
    (archive,) = archives(tmp_path)
    assert oct(archive.stat().st_mode & 0o777) == "0o644"


def test_nothing_new_is_not_packed_again(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, folder = start(tmp_path)
    compile_something(folder)
    compiled.keep()
    before = archives(tmp_path)[0].stat().st_ino
    compiled.keep()
    another_node(tmp_path, monkeypatch)
    start(tmp_path)[0].keep()
    assert [path.stat().st_ino for path in archives(tmp_path)] == [before]


def test_what_other_nodes_have_added_stays_in_the_archive(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, folder = start(tmp_path)
    compile_something(folder, "first.so")
    compiled.keep()
    another_node(tmp_path, monkeypatch)
    compiled, folder = start(tmp_path)
    compile_something(folder, "second.so", "of the other node")
    compiled.keep()
    monkeypatch.setattr("tempfile.tempdir", str(node))
    compiled, folder = start(tmp_path)
    compiled.keep()  # nothing new: the archive stays as it is
    compile_something(folder, "third.so")
    compiled.keep()
    with tarfile.open(archives(tmp_path)[0]) as tar:
        assert sorted(Path(name).name for name in tar.getnames()) == ["first.so", "second.so", "third.so"]
        (second,) = (member for member in tar if member.name.endswith("second.so"))
        content = tar.extractfile(second)
        assert content is not None
        assert content.read() == b"of the other node"


def test_what_was_compiled_long_ago_elsewhere_is_not_carried_on(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, folder = start(tmp_path)
    for name in ("old.so", "new.so"):
        compile_something(folder, name)
    os.utime(next(folder.rglob("old.so")), (0, time.time() - 61 * 86_400))
    compiled.keep()
    another_node(tmp_path, monkeypatch)  # where the rank begins before the archive is there
    archive = archives(tmp_path)[0]
    archive.rename(archive.with_suffix(".aside"))
    compiled, folder = start(tmp_path)
    archive.with_suffix(".aside").rename(archive)
    compile_something(folder, "own.so")
    compiled.keep()
    with tarfile.open(archive) as tar:
        assert sorted(Path(name).name for name in tar.getnames()) == ["new.so", "own.so"]


def test_a_rank_that_only_reads_an_archive_uses_it(tmp_path: Path, node: Path) -> None:
    compiled, folder = start(tmp_path)
    compile_something(folder)
    compiled.keep()
    os.utime(archives(tmp_path)[0], (0, 0))
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"):
        del os.environ[name]
    CompiledCode(record(tmp_path), Place(replica=1, rank=0, pp=0, tp=0, lane=1, lane_rank=0), 0).restore()
    assert archives(tmp_path)[0].stat().st_mtime > time.time() - 3600


def test_archives_that_nobody_has_read_for_long_go(tmp_path: Path, node: Path) -> None:
    for model in ("unused", "used"):
        compiled, folder = start(tmp_path, model=model)
        compile_something(folder)
        compiled.keep()
    for archive in archives(tmp_path):
        os.utime(archive, (0, time.time() - 61 * 86_400))
    start(tmp_path, model="used")
    compiled, folder = start(tmp_path, model="new")
    compile_something(folder)
    compiled.keep()
    assert [archive.parent.name.partition("-")[0] for archive in archives(tmp_path)] == ["new", "used"]
    assert len(list((tmp_path / "cache/vllm-hpc/compiled").iterdir())) == 2


@pytest.mark.parametrize(
    "changes", [{"model": "/models/other"}, {"plan": None}], ids=["another model", "other engine arguments"]
)
def test_what_compiled_code_depends_on_tells_archives_apart(
    tmp_path: Path, node: Path, changes: dict[str, Any]
) -> None:
    _, one = start(tmp_path)
    if "plan" in changes:
        changes = {"plan": msgspec.structs.replace(record(tmp_path).plan, engine={"max_num_seqs": 8})}
    assert one != start(tmp_path, **changes)[1]
    assert one != start(tmp_path, rank=1)[1]
    assert one == start(tmp_path)[1]


# /proc/cpuinfo of Linux 6.1: an EPYC 9004 and an EPYC 7003, and a Graviton 3, all shortened.
GENOA = (
    "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu avx2 avx512f avx512_bf16\nbugs\t\t: sysret_ss_attrs\n"
)
MILAN = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu avx2\nbugs\t\t: sysret_ss_attrs\n"
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n"


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("one", "other", "is_shared"),
    [
        (GENOA, GENOA.replace("9654", "9754") * 2, True),
        (GENOA, MILAN, False),
        (GRAVITON, GRAVITON.replace(" sve bf16", ""), False),
        (GRAVITON, GRAVITON.replace("2100.00", "50.00"), True),
        ("", "processor\t: 0\n", True),
        (None, None, True),
    ],
)
def test_code_for_a_processor_is_kept_for_those_with_the_same_instructions(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch, one: str | None, other: str | None, is_shared: bool
) -> None:
    found = []
    for number, text in enumerate((one, other)):
        file = tmp_path / f"cpuinfo-{number}"
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(compile_cache, "_PROCESSORS", file)
        found.append(compile_cache._device())
    assert (found[0] == found[1]) is is_shared


@pytest.mark.inputs
def test_code_for_a_gpu_is_shared_by_all_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 45\n")
    monkeypatch.setattr(compile_cache, "_NVIDIA", tmp_path)
    assert compile_cache._device() == sorted([os.uname().machine, "NVIDIA H200"])


@pytest.mark.parametrize(
    "engine", [{"load_format": "dummy", "gpu_memory_utilization": 0.5}, {"async_scheduling": False}]
)
def test_what_changes_no_code_shares_an_archive(tmp_path: Path, node: Path, engine: dict[str, Any]) -> None:
    plan = msgspec.structs.replace(record(tmp_path).plan, engine=engine)
    assert start(tmp_path)[1] == start(tmp_path, plan=plan)[1]


def test_an_archive_that_is_not_whole_is_made_again(tmp_path: Path, node: Path) -> None:
    compiled, folder = start(tmp_path)
    compile_something(folder, text="x" * 20_000)
    compiled.keep()
    (archive,) = archives(tmp_path)
    archive.write_bytes(archive.read_bytes()[:4000])
    folder.parent.rename(folder.parent.with_name("gone"))
    compiled, folder = start(tmp_path)
    assert not list(folder.rglob("*"))
    compile_something(folder)
    compiled.keep()
    with tarfile.open(archives(tmp_path)[0]) as tar:
        assert [Path(name).name for name in tar.getnames()] == ["model.so"]


def test_only_the_first_replica_packs(tmp_path: Path, node: Path) -> None:
    compiled = CompiledCode(record(tmp_path), Layout(1, 2, 2, 1, 1, 2).place(1), 0)
    compiled.restore()
    compile_something(Path(os.environ["VLLM_CACHE_ROOT"]))
    compiled.keep()
    assert not archives(tmp_path)


def test_who_has_chosen_a_place_keeps_it(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/scratch/mine")
    compiled = CompiledCode(record(tmp_path), ONE.place(0), 0)
    compiled.restore()
    compiled.keep()
    assert os.environ["VLLM_CACHE_ROOT"] == "/scratch/mine"
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not archives(tmp_path)
    assert not list(node.iterdir())


@pytest.mark.parametrize("what", ["open", "file", "link"])
def test_code_is_not_run_from_a_folder_that_others_can_write_to(tmp_path: Path, node: Path, what: str) -> None:
    place = node / f"vllm-hpc-{os.getuid()}"
    if what == "link":
        place.symlink_to(tmp_path)
    elif what == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    folders = [start(tmp_path)[1] for _ in range(2)]
    assert folders[0] == folders[1], "it is found again"
    own = folders[0].relative_to(node).parts[0]
    assert own.startswith(f"{place.name}-")
    assert (node / own).stat().st_mode & 0o777 == 0o700


def test_a_cache_that_cannot_be_written_costs_nothing(
    tmp_path: Path, node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").touch()
    compiled, folder = start(tmp_path)
    compile_something(folder)
    compiled.keep()
    assert "compiled code is not kept" in capsys.readouterr().out
