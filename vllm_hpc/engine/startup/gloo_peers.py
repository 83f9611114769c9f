"""Who is at the other end of gloo's connections: ranks of this world, or somebody who connected in a rank's place.

gloo asks nobody who connects, and vLLM's ranks send each other pickles over its groups, which are code. So each new
group's ranks first prove to each other, pair by pair, that they have the key of this replica and attempt, which is in
the job's store. A stranger cannot hand on another rank's proof: it is for one group, one pair and one direction.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

if TYPE_CHECKING:
    from vllm_hpc.engine.store.client import JobStore
    from vllm_hpc.spec.layout import Place

_LIMIT = timedelta(minutes=5)
# Of the messages with the proofs; torch's own collectives count theirs from 0.
_TAG = 0x6B65
# torch's own, whatever has taken its place since: a script may end its process group, and make another.
_NEW_GROUP = distributed_c10d.new_group


class ForeignRankError(ConnectionError):
    """Somebody else is in a rank's place."""


def check_all(store: JobStore, place: Place) -> None:
    """Check the world's process group, and each that is made in it from now on. Raises ForeignRankError."""
    name = f"gloo-key/{place.replica}"
    if place.rank == 0:
        store.set(name, secrets.token_hex(32))
    key = bytes.fromhex(store.get(name))

    def new_group(*arguments: Any, **options: Any) -> Any:
        group = _NEW_GROUP(*arguments, **options)
        check(group, key)
        return group

    check(dist.group.WORLD, key)
    dist.new_group = distributed_c10d.new_group = new_group


def check(group: Any, key: bytes) -> None:
    """Exchange proofs with every rank of a group of gloo's; none where it is another's. Raises ForeignRankError."""
    if group == dist.GroupMember.NON_GROUP_MEMBER or not _is_gloo(group):
        return
    own, peers = group.rank(), [peer for peer in range(group.size()) if peer != group.rank()]
    said = {peer: torch.zeros(32, dtype=torch.uint8) for peer in peers}
    work = [group.recv([said[peer]], peer, _TAG) for peer in peers]
    work += [group.send([_proof(key, group, own, peer)], peer, _TAG) for peer in peers]
    for one in work:
        one.wait(_LIMIT)
    for peer in peers:
        if not hmac.compare_digest(bytes(said[peer].tolist()), bytes(_proof(key, group, peer, own).tolist())):
            raise ForeignRankError(
                f"rank {peer} of process group {group.group_name} is not of this job: another process of this network "
                "or machine has connected in its place; run the job again"
            )


def _is_gloo(group: Any) -> bool:
    return "gloo" in dist.get_backend_config(group)


def _proof(key: bytes, group: Any, sender: int, receiver: int) -> torch.Tensor:
    words = f"{group.group_name} {sender} {receiver}".encode()
    return torch.tensor(list(hmac.digest(key, words, "sha256")), dtype=torch.uint8)
