"""Weights are read ahead: all of what vLLM reads, once a node, and nothing where it would be of no use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crafted import make_job
from vllm_hpc.engine.startup import weights_readahead
from vllm_hpc.engine.startup.weights_readahead import ReadAhead
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.layout import Layout

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, of 5 and 2.5 pieces."""
    monkeypatch.setattr(weights_readahead, "_PIECE", 4096)
    monkeypatch.setattr(weights_readahead, "_BLOCK", 1000)
    folder = tmp_path / "model"
    folder.mkdir()
    for name, size in zip(PARTS, (20_480, 10_240), strict=True):
        (folder / name).write_bytes(os.urandom(size))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", PARTS, strict=True))})
    )
    (folder / "other.safetensors").write_bytes(b"x" * 999)  # not in the index, so not read
    return folder


def record(model: Path, nodes: int = 1, tp: int = 2, pp: int = 1, **engine: Any) -> JobRecord:
    layout = Layout(nodes=nodes, gpus_per_node=2, procs_per_node=2, tp=tp, pp=pp, dp=1)
    job = make_job(model.parent / f"job-{len(list(model.parent.iterdir()))}", [{"prompt": "a"}], shape=layout).job()
    plan = msgspec.structs.replace(job.plan, engine=engine)
    changed: JobRecord = msgspec.structs.replace(job, model=str(model), plan=plan)
    return changed


def read_by(record: JobRecord, ranks: int = 2) -> list[int]:
    """Bytes that each rank of a node has seen to."""
    found = []
    for rank in range(ranks):
        ahead = ReadAhead.start(record, rank)
        ahead.join()
        found.append(ahead.done)
    return found


def test_the_ranks_of_a_node_read_each_byte_once(
    model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weights_readahead.Piece] = []
    read = weights_readahead._read

    def watched(piece: weights_readahead.Piece, block: memoryview) -> int:
        seen.append(piece)
        return read(piece, block)

    monkeypatch.setattr(weights_readahead, "_read", watched)
    assert read_by(record(model)) == [16_384, 14_336]
    assert "0.00 GB of weights are in memory after 0." in capfd.readouterr().out
    covered = sorted((piece.file.name, piece.first, piece.first + piece.size) for piece in seen)
    assert covered == [
        *((PARTS[0], first, first + 4096) for first in range(0, 20_480, 4096)),
        *((PARTS[1], first, min(first + 4096, 10_240)) for first in range(0, 10_240, 4096)),
    ]


def test_what_is_in_the_page_cache_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 20))
    os.sync()
    whole, block = weights_readahead.Piece(file, 0, 1 << 20), memoryview(bytearray(1 << 16))
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if weights_readahead._is_cached(opened.fileno(), (1 << 20) - 1):
            pytest.skip("this file system lives in memory")
        opened.read()
        if not weights_readahead._is_cached(opened.fileno(), (1 << 20) - 1):
            pytest.skip("this file system does not tell what is cached")
        assert weights_readahead._read(whole, block) == 0
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert weights_readahead._read(whole, block) > 0  # the kernel may have read ahead some of it
        assert all(weights_readahead._is_cached(opened.fileno(), offset) for offset in range(0, 1 << 20, 4096))


def test_the_ranks_of_each_node_read_all_of_it(model: Path) -> None:
    assert sum(read_by(record(model, nodes=2, tp=4))) == 30_720


def test_stages_on_several_nodes_need_a_part_each(model: Path) -> None:
    assert read_by(record(model, nodes=2, pp=2)) == [0, 0]
    assert sum(read_by(record(model, tp=1, pp=2))) == 30_720


@pytest.mark.parametrize(
    "engine", [{"load_format": "dummy"}, {"load_format": "runai_streamer"}, {"safetensors_load_strategy": "lazy"}]
)
def test_another_loader_reads_for_itself(model: Path, engine: dict[str, Any]) -> None:
    assert read_by(record(model, **engine)) == [0, 0]


def test_mistrals_own_file_comes_first_as_in_vllm(model: Path) -> None:
    (model / "consolidated.safetensors").write_bytes(b"x" * 5000)
    assert sum(read_by(record(model))) == 5000
    assert sum(read_by(record(model, load_format="safetensors"))) == 30_720


def test_without_an_index_all_files_are_read(model: Path) -> None:
    (model / "model.safetensors.index.json").unlink()
    assert sum(read_by(record(model))) == 30_720 + 999


@pytest.mark.parametrize("index", ["no JSON", "[]", '{"weight_map": {"a": "gone.safetensors"}}'])
def test_what_vllm_will_refuse_is_left_to_it(model: Path, index: str) -> None:
    (model / "model.safetensors.index.json").write_text(index)
    assert read_by(record(model)) == [0, 0]


def test_a_name_on_the_hub_has_no_files_here(model: Path) -> None:
    assert read_by(msgspec.structs.replace(record(model), model="facebook/opt-125m")) == [0, 0]


@pytest.fixture
def control_groups(tmp_path: Path) -> Iterator[Path]:
    """A job's groups as Slurm makes them: the limit is the step's, two above the task's."""
    root = tmp_path / "cgroup"
    task = root / "slurmstepd.scope/job_7/step_0/user/task_0"
    task.mkdir(parents=True)
    for folder in (task, *list(task.parents)[:3]):
        (folder / "memory.max").write_text("max\n")
    (root / "slurmstepd.scope/job_7/step_0/memory.max").write_text("40000\n")
    (tmp_path / "own").write_text("0::/slurmstepd.scope/job_7/step_0/user/task_0\n")
    yield root


def test_the_jobs_own_limit_of_memory_holds(model: Path, control_groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = list(weights_readahead._limits(control_groups, control_groups.parent / "own"))
    assert limits == [float("inf"), 40_000.0]
    monkeypatch.setattr(weights_readahead, "free_memory", lambda: min(limits))
    assert read_by(record(model)) == [0, 0]  # 30,720 bytes are more than half of it
    monkeypatch.setattr(weights_readahead, "free_memory", lambda: 61_440.0)
    assert sum(read_by(record(model))) == 30_720


def test_limits_of_older_control_groups_hold_too(tmp_path: Path) -> None:
    """Slurm's of a RHEL 8: the memory controller in a tree of its own; the numbers are the kernel's way to say none."""
    job = tmp_path / "memory/slurm/uid_1000/job_7"
    (job / "step_0").mkdir(parents=True)
    for folder, limit in ((tmp_path / "memory", 9223372036854771712), (job, 40_000), (job / "step_0", 50_000)):
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    own = tmp_path / "own"
    own.write_text("12:cpuset,cpu:/slurm\n5:memory:/slurm/uid_1000/job_7/step_0\n0::/user.slice\n")
    assert min(weights_readahead._limits(tmp_path, own)) == 40_000.0


def test_this_nodes_memory_is_known() -> None:
    assert 1 << 20 < weights_readahead.free_memory() < float("inf")
