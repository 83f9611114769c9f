"""The job's store as torch uses it: from Python, from C++, and from several threads."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.marks import needs_torch
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.server import StoreServer

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from vllm_hpc.engine.store.torch_store import TorchStore

pytestmark = needs_torch

SECRET = b"s" * 32
BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def server() -> StoreServer:
    return StoreServer(SECRET, "127.0.0.1")


@pytest.fixture
def plain(server: StoreServer) -> TorchStore:
    from vllm_hpc.engine.store.torch_store import TorchStore

    return TorchStore(partial(JobStore, server.address, SECRET, 5), timedelta(seconds=5))


@pytest.fixture
def store(plain: TorchStore, request: pytest.FixtureRequest) -> Store:
    """Behind a store of torch's C++ side, as process groups have it."""
    from torch._C._distributed_c10d import PrefixStore

    return PrefixStore(request.node.name, plain)


def test_all_bytes_pass(store: Store) -> None:
    store.set("a", BYTES)  # type: ignore[arg-type] # torch's own stub says str
    assert store.get("a") == BYTES
    store.multi_set(["b", "c"], [BYTES, b""])  # type: ignore[attr-defined]
    assert store.multi_get(["b", "a", "c"]) == [BYTES, BYTES, b""]
    store.append("b", b"\x00")  # type: ignore[attr-defined]
    store.append("d", BYTES)  # type: ignore[attr-defined]
    assert store.multi_get(["b", "d"]) == [BYTES + b"\x00", BYTES]


def test_what_torch_counts_and_compares(store: Store, plain: TorchStore) -> None:
    before = plain.num_keys()
    assert [store.add("n", 2**62), store.add("n", -1), store.get("n")] == [2**62, 2**62 - 1, b"%d" % (2**62 - 1)]
    assert store.compare_set("a", "x", "one") == b"x"
    assert not store.check(["a"])
    assert [store.compare_set("a", *values) for values in (("", "one"), ("x", "two"), ("one", "two"))] == [
        b"one", b"one", b"two"
    ]  # fmt: skip
    assert (store.check(["a", "n"]), store.check(["a", "b"]), plain.num_keys()) == (True, False, before + 2)
    assert (store.delete_key("a"), store.delete_key("a"), store.check(["a"])) == (True, False, False)


@pytest.mark.parametrize("own_timeout", [False, True])
def test_a_wait_ends_with_torchs_error(store: Store, own_timeout: bool) -> None:
    from torch.distributed import DistStoreError

    store.set_timeout(timedelta(milliseconds=100 if own_timeout else 60_000))
    began = time.monotonic()
    with pytest.raises(DistStoreError, match=r"the job's store has no \['.*/never'\] after 0.1 s"):
        store.wait(["never"]) if own_timeout else store.wait(["never"], timedelta(milliseconds=100))
    assert time.monotonic() - began < 30
    if own_timeout:
        with pytest.raises(DistStoreError):
            store.get("never")


def test_who_waits_holds_up_nobody(store: Store, plain: TorchStore) -> None:
    found: list[bytes] = []
    waiting = [threading.Thread(target=lambda: found.append(store.get("late")), daemon=True) for _ in range(4)]
    for one in waiting:
        one.start()
    assert [store.add("n", 1) for _ in range(20)] == list(range(1, 21))
    store.set("late", "here")
    for one in waiting:
        one.join(5)
    assert found == [b"here"] * 4
    plain.close()
    assert store.get("late") == b"here"


def test_torch_may_drop_every_reference_but_its_own(server: StoreServer) -> None:
    """torch's C++ side does not keep the Python half of a store alive."""
    import gc

    from torch._C._distributed_c10d import PrefixStore

    from vllm_hpc.engine.store.torch_store import TorchStore

    def wrapped() -> Store:
        inner = TorchStore(partial(JobStore, server.address, SECRET, 5), timedelta(seconds=5))
        return PrefixStore("dropped", PrefixStore("twice", inner))

    store = wrapped()
    gc.collect()
    assert store.add("n", 1) == 1
    copied = store.clone()  # type: ignore[attr-defined]
    del store
    gc.collect()
    assert copied.add("n", 1) == 2
