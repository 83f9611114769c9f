"""Pin the network address and device that vLLM and gloo use, instead of letting them guess.

Otherwise vLLM may choose the wrong NIC's address, and gloo needs one concrete device name. The right ones are on the
route to the head. On the head itself they are those by which the others reach it: nodes may have separate names on a
site's fast network (<host>i on JUWELS). Values that the user or the site has set stay.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import psutil


def pin() -> None:
    """Set VLLM_HOST_IP and GLOO_SOCKET_IFNAME for this process, unless they are set. Raises OSError.

    Where the job has one node, also NCCL_SOCKET_IFNAME: NCCL would listen on a network, without need.
    """
    is_head = int(os.environ.get("GROUP_RANK", "0")) == 0
    head = os.environ["MASTER_ADDR"]
    address = address_of_head(head) if is_head else address_towards(head)
    os.environ.setdefault("VLLM_HOST_IP", address)
    device = device_of(address)
    if device is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", device)
    if device is not None and ipaddress.ip_address(address).is_loopback:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", device)
    print(f"vllm-hpc: address {os.environ['VLLM_HOST_IP']}, device {os.environ.get('GLOO_SOCKET_IFNAME')}", flush=True)


def address_of_head(head: str) -> str:
    """The head's own address for the name that the others use. Raises OSError.

    Its /etc/hosts may map that name to 127.0.1.1: then its address on the route to the second node.
    """
    for _, target in _resolve(head):
        address = str(target[0])
        if not ipaddress.ip_address(address).is_loopback and device_of(address) is not None:
            return address
    return address_towards(os.environ.get("VLLM_HPC_SECOND_NODE") or head)


def address_towards(host: str) -> str:
    """This host's address on the route to another; sends no packet (UDP's connect only asks the routing table)."""
    family, target = _resolve(host)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def _resolve(host: str) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """The addresses of a name, as family and socket address. Raises OSError that names the node."""
    try:
        found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise OSError(f"cannot resolve node {host!r} from {socket.gethostname()}: {error.strerror}") from None
    return [(family, target) for family, _, _, _, target in found]


def device_of(address: str) -> str | None:
    """The device that has an address. 127.0.1.1 and the like are on the loopback device without being listed."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.split("%")[0] == address for one in addresses):
            return name
    return "lo" if address.startswith("127.") else None
