"""torchrun's agents, and their ranks, in the job's own store."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests import crafted
from tests.engine.test_meeting import address_of_host
from tests.marks import needs_torch
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.schedulers.in_script.master_port import choose_port
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.write_file import make_mark

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous import RendezvousParameters

pytestmark = needs_torch


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = crafted.make_job(tmp_path / "job")
    monkeypatch.setenv("VLLM_HPC_FOLDER", str(folder.path))
    monkeypatch.setenv("VLLM_HPC_ATTEMPT", "1")  # as scripts export it; without it a node is a pod that asks for it
    return folder.path


def parameters(endpoint: str, node: int | None, nodes: int = 2) -> RendezvousParameters:
    from torch.distributed.elastic.rendezvous import RendezvousParameters

    config: dict[str, Any] = {} if node is None else {"rank": str(node)}
    return RendezvousParameters("vllm-hpc", endpoint, "none", nodes, nodes, **config)


def test_torchrun_finds_it() -> None:
    from vllm_hpc.engine.startup import torchrun

    found = entry_points(group="torchrun.handlers")
    if "vllm-hpc" not in found.names:
        pytest.skip("this installation is older than the entry point: pip install -e . again")
    assert found["vllm-hpc"].load() is torchrun.creator


@pytest.mark.usefixtures("job")
def test_agents_of_two_nodes_meet_and_leave() -> None:
    """Through torch's own registry, at an address of the network and at no other."""
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.elastic.utils.store import barrier

    from vllm_hpc.engine.startup import torchrun

    rendezvous_handler_registry.register("vllm-hpc", torchrun.creator())
    address, left = address_of_host(), []
    endpoint = f"{address}:{choose_port('agents')}"
    agents = [rendezvous_handler_registry.create_handler(parameters(endpoint, node)) for node in (1, 0)]

    def run(agent: Any) -> None:
        found = agent.next_rendezvous()
        found.store.set(f"node-{found.rank}", "here")
        assert found.store.multi_get(["node-0", "node-1"]) == [b"here", b"here"]
        barrier(found.store, found.world_size, "end", 30)
        left.append((agent.shutdown(), found.rank, found.bootstrap_store_info.master_addr))

    threads = [threading.Thread(target=run, args=(agent,), daemon=True) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(left) == [(True, 0, address), (True, 1, address)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(endpoint.split(":")[1])), 5)


@pytest.mark.throughput
@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_port_that_another_program_has_taken_since(nodes: int) -> None:
    """One node takes another port, and its ranks hear of it; several could not meet there."""
    from vllm_hpc.engine.startup import torchrun

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent = torchrun.JobRendezvous(parameters(f"127.0.0.1:{port}", 0, nodes))
        if nodes > 1:
            with pytest.raises(OSError, match="address already in use"):
                agent.next_rendezvous()
            return
        point = agent.next_rendezvous().bootstrap_store_info
        assert point is not None and point.master_port != port
        socket.create_connection(("127.0.0.1", point.master_port), 5).close()
        assert agent.shutdown()


@pytest.mark.programs
@pytest.mark.parametrize(("drives", "end"), [(True, "left"), (True, "failed"), (True, "raises"), (False, "rows")])
def test_the_heads_agent_stays_while_a_script_runs_elsewhere(
    job: Path, monkeypatch: pytest.MonkeyPatch, drives: bool, end: str
) -> None:
    """Until all have left, or something has failed. The ranks of rows leave together, and it soon does."""
    from vllm_hpc.engine.startup import torchrun
    from vllm_hpc.engine.store.client import JobStore
    from vllm_hpc.engine.store.messages import Address

    monkeypatch.setattr(torchrun, "_LEAVE_S", 0.05)
    monkeypatch.setenv("VLLM_HPC_ATTEMPT", "1")
    folder = JobFolder(job)
    program = Program(kind="script", name="x.py", source="/x.py", drives_engine=drives)
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), program=program))
    port = choose_port(f"stays-{drives}-{end}")
    agent = torchrun.JobRendezvous(parameters(f"127.0.0.1:{port}", 0, 1))
    agent.next_rendezvous()
    rank = JobStore(Address("127.0.0.1", port), job_secret(folder), 10)
    leaving = threading.Thread(target=leave, args=(agent, end == "raises"), daemon=True)
    leaving.start()
    if end in ("left", "failed"):
        leaving.join(0.5)
        assert leaving.is_alive()
        rank.close() if end == "left" else make_mark(folder.failed(1))
    leaving.join(30)
    assert not leaving.is_alive()


def leave(agent: Any, raises: bool) -> None:
    """As torchrun ends: with an error, if a rank of its own has failed."""
    with suppress(ChildProcessError):
        try:
            if raises:
                raise ChildProcessError
        finally:
            agent.shutdown()


@pytest.mark.parametrize(("endpoint", "node"), [("127.0.0.1", 0), ("", 0), ("127.0.0.1:4711", None)])
def test_an_incomplete_line_says_what_it_needs(endpoint: str, node: int | None) -> None:
    from vllm_hpc.engine.startup.torchrun import JobRendezvous

    with pytest.raises(ValueError, match="needs --rdzv-endpoint HOST:PORT and --rdzv-conf rank=NODE"):
        JobRendezvous(parameters(endpoint, node))


def test_a_node_has_joined_before_its_ranks_are_forked(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those start after the import, which may take longer than a script waits for a node."""
    from vllm_hpc.engine.startup import shared_import, torchrun

    marks = [JobFolder(job).joined(1, node) for node in (0, 1)]
    server = object()
    monkeypatch.setattr(shared_import, "begin", lambda folder: server if folder.path == job else None)
    assert torchrun._share_import(0) is server
    assert [mark.exists() for mark in marks] == [False, False]  # the script watches no nodes
    monkeypatch.setenv("VLLM_HPC_WATCHED", "1")
    assert torchrun._share_import(1) is server
    assert [mark.exists() for mark in marks] == [False, True]
    monkeypatch.delenv("VLLM_HPC_FOLDER")
    assert torchrun._share_import(0) is None
