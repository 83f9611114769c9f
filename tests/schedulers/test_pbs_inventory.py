"""What `profiles init` makes of what PBS tells, of queues of public sites, and of vnodes as OpenPBS 23.06 printed them.

queues_derecho.json and queues_polaris.json have what qstat -Q printed there (public, 2024 and 2023), without what is
not read; the nodes of both are made from their documentation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.inventory import FoundQueue, Inventory
from vllm_hpc.schedulers.pbs.inventory import assemble, take_inventory
from vllm_hpc.schedulers.pbs.inventory_answers import clock, parse_hosts, parse_plain
from vllm_hpc.schedulers.profile_text import profile_text
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.profile import Queue
from vllm_hpc.spec.toml_file import parse_toml

pytestmark = pytest.mark.admins

RECORDED = Path(__file__).parents[1] / "pbs" / "recorded"
PLAIN_QUEUES = """\
Queue: gpu_long
    queue_type = Execution
    Priority = 66
    resources_max.ngpus = 99
    resources_max.walltime = 336:00:00
    resources_min.ngpus = 1
    comment = Queue for long time computations on GPU|Fronta pro dlouhodob
\te vypocty na GPU
    default_chunk.queue_list = q_gpu_long
    enabled = True
    started = True

Queue: closed
    queue_type = Execution
    enabled = False
    started = True
"""
PLAIN_NODES = """\
zia1
     Mom = zia1
     state = free
     resources_available.host = zia1
     resources_available.mem = 527942792kb
     resources_available.ncpus = 64
     resources_available.ngpus = 4
     resources_available.queue_list = q_gpu,q_gpu_long

zia2
     Mom = zia2
     state = free
     resources_available.host = zia2
     resources_available.ncpus = 128
     resources_available.ngpus = 8
     resources_available.queue_list = q_gpu
"""


def vnode(name: str, sharing: str = "default_shared", **has: Any) -> dict[str, Any]:
    return {"state": "free", "sharing": sharing, "resources_available": {"host": name, "arch": "linux", **has}}


def recorded(name: str) -> dict[str, Any]:
    queues: dict[str, Any] = json.loads((RECORDED / f"queues_{name}.json").read_text())["Queue"]
    return queues


def table(inventory: Inventory, name: str) -> FoundQueue:
    return next(found for found in inventory.queues if found.name == name)


@pytest.fixture(scope="module")
def derecho() -> Inventory:
    nodes = {
        f"deg{n}": vnode(f"deg{n}", ncpus=64, ngpus=4, mem="487gb", Qlist="a100", gpu_type="a100") for n in range(82)
    }
    nodes |= {f"dec{n}": vnode(f"dec{n}", ncpus=128, mem="235gb", Qlist="cpu") for n in range(3)}
    return assemble(recorded("derecho"), {"desched1.hsn": {"default_queue": "main"}}, parse_hosts(nodes))


@pytest.fixture(scope="module")
def polaris() -> Inventory:
    nodes = {
        f"x{n}": vnode(
            f"x{n}", "force_exclhost", ncpus=64, ngpus=4, mem="527942792kb", system="polaris", debug=str(n < 24)
        )
        for n in range(560)
    }
    return assemble(recorded("polaris"), {"polaris-pbs-01.hsn": {"default_queue": "prod"}}, parse_hosts(nodes))


def test_a_routing_queue_gets_the_limits_of_where_its_jobs_go(derecho: Inventory, polaris: Inventory) -> None:
    main = table(derecho, "main")
    assert main.queue == Queue(max_nodes=82, max_gpus=328, gpus_per_node=4, cpus_per_node=64, mem_per_node="498688M")
    assert main.is_default
    prod = table(polaris, "prod").queue
    assert (prod.min_nodes, prod.max_nodes, prod.max_time) == (10, 24, "03:00:00"), "of small: prod itself takes 24 h"


def test_each_end_of_a_routing_queue_gets_a_table() -> None:
    queues = recorded("polaris")
    medium = {
        **queues["small"],
        "resources_min": {"nodect": 25},
        "resources_max": {"nodect": 99, "walltime": "06:00:00"},
    }
    hosts = parse_hosts({f"x{n}": vnode(f"x{n}", ncpus=64, ngpus=4, system="polaris") for n in range(560)})
    found = assemble({**queues, "medium": medium}, {}, hosts)
    named = {
        one.name: (one.queue.partition, one.queue.min_nodes, one.queue.max_nodes, one.queue.max_time)
        for one in found.queues
    }
    assert named["prod-small"] == ("prod", 10, 24, "03:00:00")
    assert named["prod-medium"] == ("prod", 25, 99, "06:00:00")
    assert "prod-backfill-small" not in named, "it takes what small takes"


def test_nodes_that_are_given_whole_are_billed_whole(derecho: Inventory, polaris: Inventory) -> None:
    assert table(polaris, "prod").queue.whole_nodes is True
    assert table(derecho, "main").queue.whole_nodes is None


def test_a_queue_has_the_nodes_that_its_chunks_ask_for(derecho: Inventory) -> None:
    assert derecho.left_out["system"] == derecho.left_out["jhub"] == "its nodes have no GPU (ngpus)"
    assert derecho.left_out["tutorial"] == "none of its destinations has nodes with GPUs, or takes jobs"
    assert "run_next" not in [found.name for found in derecho.queues]


def test_tries_and_what_may_be_cut_are_for_those_who_ask(derecho: Inventory, polaris: Inventory) -> None:
    by_request = [found.name for found in (*derecho.queues, *polaris.queues) if found.queue.by_request]
    assert by_request == ["preempt", "develop", "debug"]
    assert polaris.left_out == {"run_next": "it is not enabled"}


def test_a_reservations_queue_gets_no_table() -> None:
    takes = {"queue_type": "Execution", "enabled": "True", "started": "True"}
    its = {**takes, "acl_user_enable": "True", "acl_users": "kim@*"}
    waiting = {**its, "started": "False"}
    found = assemble({"workq": takes, "R1234": its, "S77": waiting, "M9": its, "R2": takes, "R1x": its}, {}, [])
    assert [one.name for one in found.queues] == ["workq", "R2", "R1x"], "R2 is for everybody: no reservation's is"
    assert found.left_out == {}
    assert "R1234" in found.partitions


def test_what_pbs_cannot_tell_of_jobs_is_said() -> None:
    found = assemble({"workq": {"queue_type": "Execution", "enabled": "True", "started": "True"}}, {}, [])
    assert '# nor what each job must name: where that is who pays, and a walltime: required = ["account", "time"]' in (
        profile_text("x", found, "today").splitlines()
    )


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (
            "rtx6000",
            "say how much memory GPU 'rtx6000' has, as nvidia-smi or rocm-smi does, so that plan can check it: ",
        ),
        ("a100", 'say which GPU \'a100\' is, so that plan can check memory: gpu = "a100-40" or "a100-64" or '),
    ],
)
def test_no_gpu_is_taken_for_another(kind: str, advice: str) -> None:
    takes = {"queue_type": "Execution", "enabled": "True", "started": "True"}
    hosts = parse_hosts({"n1": vnode("n1", ncpus=64, ngpus=4, gpu_type=kind)})
    (said,) = assemble({"workq": takes}, {}, hosts).gpu_advice()
    assert said.startswith(advice)
    assert "h100" not in said


def test_vnodes_of_a_host_are_summed_and_belong_to_their_queue() -> None:
    nodes = json.loads((RECORDED / "pbsnodes_vnodes.json").read_text())["nodes"]
    takes = {"queue_type": "Execution", "enabled": "True", "started": "True"}
    found = assemble({"workq": takes, "gpuq": takes}, {}, parse_hosts(nodes))
    assert [(one.name, one.queue.gpus_per_node, one.queue.cpus_per_node) for one in found.queues] == [
        ("workq", 4, 2), ("gpuq-gpu-8", 8, 96), ("gpuq-gpu-4", 4, 64),
    ]  # fmt: skip


def test_where_no_node_tells_of_gpus_the_queue_implies_them() -> None:
    hosts = parse_hosts({"a": vnode("a", ncpus=72), "b": vnode("b", ncpus=72)})
    found = assemble({"regular-g": {"queue_type": "Execution"}}, {}, hosts)
    assert found.keys == {"gpu_request": "queue"}
    assert table(found, "regular-g").queue == Queue(max_nodes=2)
    assert any("gpus_per_node" in note for note in found.notes)


def asking(answers: dict[str, str]) -> Ask:
    """Clients that print these, by their words; one that is not there refuses."""

    def ask(argv: list[str]) -> str:
        if " ".join(argv) not in answers:
            raise ClientError(f"{argv[0]} refused: no")
        return answers[" ".join(argv)]

    return ask


def test_the_plain_form_is_read_where_the_json_is_none() -> None:
    found = take_inventory(
        asking({
            "qstat -Q -f -F json": '{"Queue":{"gpu_long":{"comment":"a"b"}}}', "qstat -Q -f": PLAIN_QUEUES,
            "pbsnodes -a -v -F json": "pbsnodes: illegal option", "pbsnodes -a -v": PLAIN_NODES,
        })
    )  # fmt: skip
    assert table(found, "gpu_long").queue == Queue(
        max_nodes=1, max_gpus=99, max_time="336:00:00", gpus_per_node=4, cpus_per_node=64, mem_per_node="515569M"
    )
    assert found.left_out == {"closed": "it is not enabled"}
    assert parse_plain(PLAIN_QUEUES)["gpu_long"]["comment"].endswith("dlouhodobe vypocty na GPU")


def test_what_a_pbs_of_two_hosts_printed() -> None:
    """In both forms. It has a queue prod that passes jobs on to small and medium, and one that is only eve's."""
    for suffix in ("json", "txt"):
        parts = {"qstat -Q -f": "queues", "qstat -B -f": "server", "pbsnodes -a -v": "nodes"}
        texts = {argv: (RECORDED / f"two_hosts_{name}.{suffix}").read_text() for argv, name in parts.items()}
        found = take_inventory(asking(texts | {f"{argv} -F json": text for argv, text in texts.items()}))
        assert [one.name for one in found.queues] == ["workq", "prod-small", "prod-medium", "debug", "preemptable"]
        assert [one.queue.by_request or False for one in found.queues] == [False, False, False, True, True]
        assert (found.name, found.said_by) == ("head", "PBS 23.06.06")
        assert table(found, "workq").queue == Queue(
            max_nodes=2, gpus_per_node=4, cpus_per_node=8, mem_per_node="24105M"
        )
        assert table(found, "prod-medium").queue == Queue(
            partition="prod", min_nodes=2, max_nodes=2, max_time="24:00:00", time="00:30:00", gpus_per_node=4,
            cpus_per_node=8, mem_per_node="24105M",
        )  # fmt: skip


def test_no_queue_is_refused() -> None:
    with pytest.raises(RequestError, match="shows no queue"):
        take_inventory(asking({"qstat -Q -f -F json": "{}", "pbsnodes -a -v -F json": "{}"}))


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ("24:00:00", "24:00:00"),
        ("3600", "01:00:00"),
        (86400, "24:00:00"),
        *((odd, "") for odd in ("", "-1", "x", None)),
    ],
)
def test_a_walltime_as_pbs_tells_it(told: Any, taken: str) -> None:
    assert clock(told) == taken


@pytest.mark.parametrize(
    "value",
    [None, [], {}, "x", 10**30, -1, "\x1b[2J", {"nodect": "\n"}, ["a"], "9" * 5000, True, 1.5, "$(id)", {"ngpus": []}],
)
def test_no_answer_breaks_it(value: Any) -> None:
    queues = {
        "a\n]": {"queue_type": value, "resources_max": value, "resources_min": value, "default_chunk": value},
        "r": {"queue_type": "Route", "route_destinations": value},
        "b": {"resources_max": {"nodect": value, "walltime": value, "ngpus": value}, "enabled": value},
    }
    nodes = {
        "n": {"resources_available": value},
        "m": vnode("m", ncpus=value, ngpus=4),
        "o": vnode("o", ncpus=4, ngpus=2, x=value),
    }
    inventory = assemble(queues, {"s": {}}, parse_hosts(nodes))
    parse_toml(profile_text("x", inventory, "today").encode(), Path("x"))
