"""Ports and addresses that are decided inside the job."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vllm_hpc.engine.startup.network import pin
from vllm_hpc.schedulers.in_script.master_port import choose_port


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_HPC_SECOND_NODE", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    return monkeypatch


def seen() -> tuple[str | None, str | None]:
    return os.environ.get("VLLM_HOST_IP"), os.environ.get("GLOO_SOCKET_IFNAME")


def test_a_node_pins_the_device_on_its_way_to_the_head(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GROUP_RANK", "1")
    pin()
    assert seen() == ("127.0.0.1", "lo")


def test_nccl_stays_on_the_loopback_device_of_a_job_on_one_node(environment: pytest.MonkeyPatch) -> None:
    """It would listen on a network, which it takes for the better one."""
    pin()
    assert os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    environment.setenv("NCCL_SOCKET_IFNAME", "ib0")
    pin()
    assert os.environ["NCCL_SOCKET_IFNAME"] == "ib0"


def test_nccl_chooses_its_device_on_several_nodes(environment: pytest.MonkeyPatch) -> None:
    devices = psutil.net_if_addrs()
    devices["ib0"] = [devices["lo"][0]._replace(address="10.9.8.7")]
    environment.setattr(psutil, "net_if_addrs", lambda: devices)
    environment.setenv("MASTER_ADDR", "10.9.8.7")
    pin()
    assert seen() == ("10.9.8.7", "ib0")
    assert "NCCL_SOCKET_IFNAME" not in os.environ


def test_the_head_looks_towards_the_second_node(environment: pytest.MonkeyPatch) -> None:
    """Its own name may be 127.0.1.1 in its own /etc/hosts: the way to itself says nothing."""
    outside = [
        (name, one.address)
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family == socket.AF_INET and name != "lo"
    ]
    name, address = outside[0] if outside else ("lo", "127.0.0.1")
    environment.setenv("MASTER_ADDR", "127.0.1.1")
    environment.setenv("VLLM_HPC_SECOND_NODE", address)
    pin()
    assert seen() == (address, name)


def test_the_head_takes_the_address_that_the_others_reach_it_by(environment: pytest.MonkeyPatch) -> None:
    """A site's nodes have a name on the fast network; the plain name of the second one leads elsewhere."""
    devices = psutil.net_if_addrs()
    devices["ib0"] = [devices["lo"][0]._replace(address="10.9.8.7")]
    environment.setattr(psutil, "net_if_addrs", lambda: devices)
    environment.setenv("MASTER_ADDR", "10.9.8.7")
    environment.setenv("VLLM_HPC_SECOND_NODE", "127.0.0.1")
    pin()
    assert seen() == ("10.9.8.7", "ib0")


def test_an_address_that_the_head_does_not_hold_is_not_pinned(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_ADDR", "192.0.2.1")  # of TEST-NET-1, which nobody has
    environment.setenv("VLLM_HPC_SECOND_NODE", "127.0.0.1")
    pin()
    assert seen() == ("127.0.0.1", "lo")


def test_what_the_site_has_set_stays(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VLLM_HOST_IP", "10.1.2.3")
    environment.setenv("GLOO_SOCKET_IFNAME", "hsn0")
    pin()
    assert seen() == ("10.1.2.3", "hsn0")


def test_a_head_that_cannot_be_resolved_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GROUP_RANK", "1")
    environment.setenv("MASTER_ADDR", "no-such-node.invalid")
    with pytest.raises(OSError, match=r"cannot resolve node 'no-such-node\.invalid'"):
        pin()


def test_the_port_is_free_and_not_ephemeral() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    port = int(subprocess.check_output([sys.executable, "-m", "vllm_hpc.in_job", "rendezvous", "4711"]))
    assert not low <= port <= high
    assert port == choose_port("4711")


def test_a_taken_port_is_passed_over_and_jobs_begin_apart() -> None:
    first = choose_port("4711")
    with socket.socket() as taken:
        taken.bind(("", first))
        assert choose_port("4711") != first
    assert choose_port("4712") != first
