"""Asks this machine's scheduler what its cluster has, or says why nobody can be asked."""

from __future__ import annotations

from vllm_hpc.schedulers.client import ClientMissingError, call_client
from vllm_hpc.schedulers.inventory import Inventory, without_impossible
from vllm_hpc.schedulers.scheduler import find_scheduler, get_scheduler
from vllm_hpc.spec.errors import RequestError

# pbsnodes takes half a minute for ten thousand nodes.
_TIMEOUT_S = 120.0


def ask_cluster(name: str | None = None) -> Inventory:
    """What the scheduler of that name, or this machine's, tells of its cluster.

    Raises RequestError where there is none that can be asked, and ClientError where it does not answer.
    """
    why = ""
    if name in (None, "auto"):
        name, why = find_scheduler()
    if name == "local":
        reason = f" ({why})" if why else ""
        raise RequestError(f"there is no Slurm or PBS to ask here{reason}: run this on a login node of the cluster")
    take_inventory = get_scheduler(name).take_inventory
    if take_inventory is None:
        raise RequestError(f"the scheduler {name!r} cannot be asked what its cluster has: write the profile by hand")
    try:
        return without_impossible(take_inventory(lambda argv: call_client(argv, _TIMEOUT_S)))
    except ClientMissingError:
        raise RequestError(f"the clients of {name} are not here: run this on a login node of the cluster") from None
