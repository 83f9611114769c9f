"""torch's flight recorder: what a process has in memory or has dumped. Pickles are read, and never obeyed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import psutil
import pytest

from vllm_hpc.engine.health import flight_recorder
from vllm_hpc.engine.health.flight_recorder import last_collectives, read_dump
from vllm_hpc.jobfolder.debug_records import Recorded

pytestmark = pytest.mark.programs

ENTRIES: list[dict[str, Any]] = [
    {"profiling_name": f"nccl:{name}", "collective_seq_id": n, "process_group": ("0", "default_pg"), "state": "started"}
    for n, name in enumerate(("all_reduce", "all_gather", "broadcast", "barrier"))
]


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_recorder, "_in_memory", list)


@pytest.mark.parametrize("form", ["pickle", "json"])
def test_a_dump_of_this_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    found = {"version": "2.10", "entries": ENTRIES}
    content = pickle.dumps(found, 2) if form == "pickle" else json.dumps(found).encode()
    (tmp_path / "trace_3").write_bytes(content)
    monkeypatch.setenv("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", str(tmp_path / "trace_"))
    assert last_collectives(3) == tuple(
        Recorded(operation=f"nccl:{name}", group="default_pg", sequence=n, state="started")
        for n, name in ((1, "all_gather"), (2, "broadcast"), (3, "barrier"))
    )
    assert last_collectives(4) == ()


def test_the_dump_of_an_earlier_job_is_not_this_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trace_3").write_bytes(pickle.dumps({"entries": ENTRIES}))
    monkeypatch.setenv("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", str(tmp_path / "trace_"))
    assert last_collectives(3)
    began = psutil.Process().create_time()
    os.utime(tmp_path / "trace_3", (began - 60, began - 60))
    assert last_collectives(3) == ()


def test_a_pickle_that_would_do_something_does_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "trace").write_bytes(pickle.dumps({"entries": [Trap(made)]}))
    assert list(read_dump(tmp_path / "trace")) == []
    assert not made.exists()


def test_what_others_can_write_is_not_read(tmp_path: Path) -> None:
    dump = tmp_path / "trace"
    dump.write_bytes(pickle.dumps({"entries": ENTRIES}))
    dump.chmod(0o666)
    assert list(read_dump(dump)) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x80", b"garbage", b"{}", b'{"entries": 3}', pytest.param(b"[" * 100_000, id="deep"), b"(dp0"],
)
def test_a_damaged_dump_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trace").write_bytes(content)
    assert list(read_dump(tmp_path / "trace")) == []


def test_neither_a_fifo_nor_a_folder_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert list(read_dump(tmp_path / "fifo")) == list(read_dump(tmp_path)) == list(read_dump(tmp_path / "no")) == []


def test_entries_of_other_kinds_are_left_out() -> None:
    entries = [3, None, {"collective_seq_id": "x", "process_group": 7}, *ENTRIES[:1]]
    assert flight_recorder._recorded(entries) == (
        Recorded(operation=""), Recorded(operation="nccl:all_reduce", group="default_pg", sequence=0, state="started")
    )  # fmt: skip
