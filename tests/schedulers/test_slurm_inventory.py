"""What `profiles init` makes of what Slurm tells: of a cluster of many kinds of nodes, and of public sites.

tests/slurm/recorded/mixed is what Slurm 22.05.8 printed of a cluster of 235 configured nodes, with typed GPUs, slices
of GPUs, nodes that share partitions, drained nodes, hidden and closed partitions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.inventory import FoundQueue, Inventory
from vllm_hpc.schedulers.profile_text import profile_text
from vllm_hpc.schedulers.slurm.inventory import assemble, take_inventory
from vllm_hpc.schedulers.slurm.inventory_answers import first_host, parse_partitions, parse_sinfo
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.profile import Queue
from vllm_hpc.spec.toml_file import parse_toml

pytestmark = pytest.mark.admins

MIXED = Path(__file__).parents[1] / "slurm" / "recorded" / "mixed"
OPEN = "AllowAccounts=ALL AllowQos=ALL Default=NO QoS=N/A Hidden=NO MinNodes=0 RootOnly=NO OverSubscribe=NO State=UP"
# NREL's Kestrel: sinfo's lines of its GPU partitions (public, 2025), in the columns that are asked for.
KESTREL = """\
short|2112|104|246064|(null)|idle||c[1-2112]
short|64|104|984256|(null)|idle||c[3001-3064]
debug-gpu|24|128|1440000|gpu:h100:4(S:0-3)|idle||x1
gpu-h100|24|128|1440000|gpu:h100:4(S:0-3)|mixed||x1
gpu-h100|105|128|360000|gpu:h100:4(S:0-3)|allocated||x2
gpu-h100|3|128|360000|gpu:h100:4(S:0-1)|drained||x3
gpu-h100|24|128|720000|gpu:h100:4(S:0-3)|mixed||x4
gpu-h100-stdby|105|128|360000|gpu:h100:4(S:0-3)|allocated||x2
gpu-a100|2|64|246064|gpu:a100:4|idle||y1
gpu-a100|4|64|246064|gpu:a100:4(S:0)|idle||y2
"""


def asking(**said: str) -> Ask:
    """Clients that print the files of MIXED, or what is given instead; sacctmgr is not there."""
    answers = {name: (MIXED / f"{name}.txt").read_text() for name in ("sinfo", "partitions", "nodes", "config")} | said

    def ask(argv: list[str]) -> str:
        which = {"partition": "partitions", "config": "config", "node": "nodes"}
        name = argv[0] if argv[0] != "scontrol" else next(which[word] for word in argv if word in which)
        if name not in answers:
            raise ClientError(f"{name} refused: no answer")
        return answers[name]

    return ask


@pytest.fixture(scope="module")
def mixed() -> Inventory:
    return take_inventory(asking())


def found(inventory: Inventory, name: str) -> FoundQueue:
    return next(queue for queue in inventory.queues if queue.name == name)


def partitions_of(names: str, more: str = "") -> str:
    return "\n".join(
        f"PartitionName={name} {more} {OPEN} MaxNodes=UNLIMITED MaxTime=2-00:00:00" for name in names.split()
    )


def test_a_partition_with_three_kinds_of_nodes_gets_three_tables(mixed: Inventory) -> None:
    assert [queue.name for queue in mixed.queues if (queue.queue.partition or queue.name) == "gpu"] == [
        "gpu-a100-4", "gpu-h100", "gpu-a100-8",
    ]  # fmt: skip
    assert found(mixed, "gpu-h100").queue == Queue(
        partition="gpu", max_nodes=8, max_time="1-00:00:00", time="01:00:00", gpu="h100-80", gpu_type="h100",
        gpus_per_node=8, cpus_per_node=192, mem_per_node="2060000M",
    )  # fmt: skip


def test_cores_and_memory_that_slurm_keeps_for_itself_are_not_offered(mixed: Inventory) -> None:
    queue = found(mixed, "gpu-a100-4").queue
    assert (queue.cpus_per_node, queue.mem_per_node) == (60, "500000M"), "CoreSpecCount=4, MemSpecLimit=15000"


def test_a_feature_says_which_memory_the_gpu_has(mixed: Inventory) -> None:
    assert found(mixed, "gpu-a100-8").queue.gpu == "a100-80", "its feature is 80gb"
    vague = found(mixed, "gpu-a100-4")
    assert vague.queue.gpu is None
    assert '"a100-40" or "a100-64" or "a100-80"' in vague.gpu_advice
    assert profile_text("x", mixed, "today").count("say which GPU 'a100' is") == 1, "for three tables"


def test_a_feature_of_some_nodes_says_nothing_of_the_others() -> None:
    lines = "g|4|64|1000|gpu:a100:4|idle|a100,80gb|a[1-4]\ng|4|64|2000|gpu:a100:4|idle|a100,40gb|b[1-4]"
    queue = assemble({}, parse_partitions(partitions_of("g")), parse_sinfo(lines, {})).queues[0]
    assert (queue.queue.gpu, queue.queue.max_nodes, queue.queue.mem_per_node) == (None, 8, "1000M")


def test_limits_are_those_of_the_partition_and_of_its_nodes(mixed: Inventory) -> None:
    assert found(mixed, "h100").queue.min_nodes == 2
    assert found(mixed, "h100").queue.whole_nodes is True
    assert found(mixed, "gpu-a100-8").queue.max_nodes == 2, "MaxNodes is 8, but there are two"
    assert found(mixed, "l40s").queue.max_time is None, "MaxTime=UNLIMITED"


def test_jobs_do_not_go_unasked_where_they_are_cut_or_refused(mixed: Inventory) -> None:
    why = {queue.name: queue.sources.get("by_request") for queue in mixed.queues}
    assert why["gpu-debug"] == "by its name (debug)"
    assert why["owners"] == "not for everybody: AllowAccounts=pi_kim,pi_lee"
    assert "the lowest PriorityTier" in (why["spare-h100"] or "")
    assert [why[name] for name in ("gpu-a100-4", "h100", "l40s")] == [None, None, None]
    assert [queue.queue.by_request for queue in mixed.queues] == sorted(
        queue.queue.by_request for queue in mixed.queues
    )


@pytest.mark.parametrize(
    ("tiers", "cut"),
    [
        ({"gpu": 10, "spare": 1}, ["spare"]),
        ({"gpu": 1, "gpu-debug": 100}, ["gpu-debug"]),
        ({"gpu": 1, "big": 1}, []),
        ({"gpu": 1, "owners": 50}, ["owners"]),
    ],
)
def test_production_does_not_pass_for_what_may_be_cut(tiers: dict[str, int], cut: list[str]) -> None:
    """Because debug queues and owners start first."""
    lines = [
        f"PartitionName={name} AllowAccounts={'pi' if name == 'owners' else 'ALL'} {OPEN} PreemptMode=REQUEUE "
        f"PriorityTier={tier}"
        for name, tier in tiers.items()
    ]
    groups = [group for name in tiers for group in parse_sinfo(f"{name}|2|64|1000|gpu:4|idle||n[1-2]", {})]
    found = assemble({"PreemptType": "preempt/partition_prio"}, parse_partitions("\n".join(lines)), groups)
    assert [one.name for one in found.queues if one.queue.by_request] == cut


def test_what_is_of_no_use_is_left_out_with_the_reason(mixed: Inventory) -> None:
    assert mixed.left_out == {
        "standard": "its nodes have no GPU",
        "mig": "its GPUs are slices (MIG), between which ranks cannot talk",
        "admin": "RootOnly=YES",
        "old": "its State is DOWN",
    }


def test_nodes_out_of_service_are_counted_and_said(mixed: Inventory) -> None:
    assert found(mixed, "gpu-a100-4").queue.max_nodes == 8
    assert "nodes out of service then: 2 of 18" in found(mixed, "gpu-a100-4").notes


def test_the_smallest_nodes_of_a_partition_count() -> None:
    partitions = parse_partitions(partitions_of("short debug-gpu gpu-h100 gpu-h100-stdby gpu-a100"))
    kestrel = assemble({"SelectType": "select/cons_tres"}, partitions, parse_sinfo(KESTREL, {}))
    queue = found(kestrel, "gpu-h100")
    assert (queue.queue.gpus_per_node, queue.queue.mem_per_node, queue.queue.max_nodes) == (4, "360000M", 156)
    assert "mem_per_node is that of its smallest nodes: the largest have 1440000M" in queue.notes
    assert found(kestrel, "gpu-a100").queue.max_nodes == 6
    assert found(kestrel, "gpu-h100-stdby").queue.by_request and found(kestrel, "debug-gpu").queue.by_request
    assert kestrel.left_out == {"short": "its nodes have no GPU"}


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:4", [("", 4)]),
        ("gpu:a100:4(S:0-1),nvme:3500", [("a100", 4)]),
        ("craynetwork:4,gpu:4", [("", 4)]),
        ("gpu:nvidia_a100-sxm4-80gb:8(S:0-1)", [("nvidia_a100-sxm4-80gb", 8)]),
        ("gpu:a100:2(S:0),gpu:v100:2(S:1)", [("a100", 2), ("v100", 2)]),
        ("gpu:a100:3,gpu:a100_3g.20gb:2", [("a100", 3)]),
        ("gpu:nvidia_h100_80gb_hbm3_1g.10gb:6(S:0-1)", []),
        ("gpu:a100:no_consume:4", [("a100", 4)]),
        ("gpu:0", []),
        ("shard:32,mps:400,vgpu:8", []),
        ("(null)", []),
        ("gpu:99999999999999999999", []),
    ],
)
def test_what_a_gres_says_of_gpus(gres: str, expected: list[tuple[str, int]]) -> None:
    groups = parse_sinfo(f"p|2|64|515000|{gres}|idle|(null)|n[1-2]", {})
    assert [(kind.gpu_type, kind.gpus) for group in groups for kind in group.kinds] == expected


def test_a_partitions_own_quality_of_service_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    partitions = parse_partitions(partitions_of("gpu", "QoS=gpu_part"))
    groups = parse_sinfo("gpu|80|40|382000|gpu:v100:4(S:0-1)|idle||r[1-80]", {})
    qos = {"gpu_part": ("1-00:00:00", "cpu=400,gres/gpu=80,node=20")}
    queue = assemble({"SelectType": "select/cons_tres"}, partitions, groups, qos).queues[0]
    assert (queue.queue.max_gpus, queue.queue.max_nodes, queue.queue.max_time) == (80, 20, "1-00:00:00")
    assert queue.sources["max_time"] == "MaxWall of QoS gpu_part"


def test_the_dialect_of_gpus_follows_from_selecttype() -> None:
    partitions = parse_partitions(partitions_of("p"))
    gpus = parse_sinfo("p|2|64|1000|gpu:4|idle||n[1-2]", {})
    assert assemble({"SelectType": "select/cons_res"}, partitions, gpus).keys == {"gpu_flag": "gres"}
    cray = {"SelectType": "select/cray_aries", "SelectTypeParameters": "CR_CORE_MEMORY,OTHER_CONS_TRES"}
    assert assemble(cray, partitions, gpus).keys == {}
    without = assemble({}, partitions, parse_sinfo("p|2|64|1000|(null)|idle||n[1-2]", {}))
    assert without.keys == {"gpu_flag": "none"}
    assert without.queues[0].queue == Queue(max_nodes=2, max_time="2-00:00:00")


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("nid[001000,001004-001007],x[1-2]", "nid001000"),
        ("a1,b2", "a1"),
        ("r[0-1]n[0-3]", "r0n0"),
        ("node1", "node1"),
        ("", ""),
    ],
)
def test_the_first_of_a_list_of_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_accounts_are_named_where_there_is_accounting() -> None:
    config = (MIXED / "config.txt").read_text().replace("accounting_storage/none", "accounting_storage/slurmdbd")
    said = asking(config=config, sacctmgr="b|normal\na|\na|normal,long\n")
    assert any(note.startswith("your accounts (sacctmgr): a, b; ") for note in take_inventory(said).notes)


def refused(**said: str) -> Callable[[], Inventory]:
    return lambda: take_inventory(asking(**said))


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(RequestError, match="shows no partition"):
        refused(partitions="")()
    with pytest.raises(RequestError, match="shows no partition"):
        refused(partitions="No partitions in the system\n")()
    assert refused(sinfo="")().left_out["gpu"] == "sinfo shows no node of it (powered down, or hidden from you)"


HOSTILE = [
    "\x1b]52;c;cm0=\x07", 'a"b', "a'b", "$(touch x)", "`id`", "a\\b", "é", "日本", "a]b", "x=1", "#", "a\x00b",
    "a\x7fb", "\u202eabc", "site/x", "a.b", "-", "'''", '"""', "\\u0041",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_partition_breaks_the_file(name: str) -> None:
    partitions = parse_partitions(partitions_of(name.replace(" ", ""), "AllowAccounts=$(id)\x07\r"))
    groups = parse_sinfo(f"{name}|2|64|1000|gpu:{name.replace(':', '')}:4|idle|{name}|n[1-2]", {})
    inventory = assemble({"SelectType": "select/cons_tres", "ClusterName": name}, partitions, groups)
    text = profile_text("x", inventory, "today")
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    profile = parse_toml(text.encode(), Path("x"))["profiles"]["x"]
    assert list(profile.get("queues", {})) == [queue.name for queue in inventory.queues]
