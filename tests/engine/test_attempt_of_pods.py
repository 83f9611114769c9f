"""The number of an attempt, which only the head knows: how other nodes learn it, and when they wait for the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from vllm_hpc.engine.startup.attempt_of_pods import ATTEMPT, agree_on_attempt
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.jobfolder.folder import JobFolder

pytestmark = pytest.mark.programs

Connect = Callable[[], JobStore]
SECRET = b"a secret of thirty-two characters"


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    (tmp_path / "job" / "state").mkdir(parents=True)
    return JobFolder(tmp_path / "job")


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, folder: JobFolder) -> Callable[[int], Connect]:
    """Begin an attempt, as the head."""

    def begun(attempt: int) -> Connect:
        server = StoreServer(SECRET, "127.0.0.1", 0)
        connect = partial(JobStore, server.address, SECRET, 5.0)
        monkeypatch.setenv(ATTEMPT, str(attempt))
        agree_on_attempt(connect, 0, folder)
        monkeypatch.delenv(ATTEMPT)
        return connect

    return begun


def test_another_node_learns_it_and_is_marked_as_joined(
    begin: Callable[[int], Connect], folder: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = begin(3)
    monkeypatch.setenv("VLLM_HPC_POD_FILE", str(tmp_path / "attempt"))
    agree_on_attempt(connect, 1, folder)
    assert os.environ[ATTEMPT] == "3"
    assert folder.joined(3, 1).exists()
    assert (tmp_path / "attempt").read_text() == "3"


def test_a_node_is_in_an_attempt_once(
    begin: Callable[[int], Connect], folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    connects = [begin(1), begin(2)]
    agree_on_attempt(connects[0], 1, folder)
    monkeypatch.delenv(ATTEMPT)
    with pytest.raises(OSError, match="no other attempt since this node left the last one"):
        agree_on_attempt(connects[0], 1, folder, limit_s=0)
    waits = iter([connects[0], connects[0], connects[1]])
    agree_on_attempt(lambda: next(waits)(), 1, folder)
    assert folder.joined(2, 1).exists()


def test_where_scripts_know_it_nothing_is_asked(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ATTEMPT, "4")
    agree_on_attempt(lambda: pytest.fail("asked"), 1, folder)
    assert os.environ[ATTEMPT] == "4"
