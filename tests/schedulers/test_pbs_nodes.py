"""The part of a node that belongs to a job's GPUs, as pbsnodes tells it, and that not knowing it stops nothing.

tests/pbs/recorded/pbsnodes_vnodes.json is what ``pbsnodes -a -v -F json`` of OpenPBS 23.06.06 told an ordinary user: a
host of two vnodes with two GPUs, a core and 4 GB each (``pbsnodes -a -F json`` said 2 GPUs, 2 cores, 8 GB), two hosts
of the queue gpuq that are down, and one without GPUs that is offline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.schedulers.test_pbs_answers import HANGS, RECORDED
from vllm_hpc.jobs.submit import Prepared, prepare
from vllm_hpc.schedulers.client import ClientError, ClientMissingError
from vllm_hpc.schedulers.pbs.nodes import Host, parse_pbsnodes

pytestmark = pytest.mark.inputs
VNODES = (RECORDED / "pbsnodes_vnodes.json").read_text()
IN_SERVICE = VNODES.replace("state-unknown,down", "free").replace("state-unknown,offline", "free")


class Pbsnodes:
    answer: str | ClientError = IN_SERVICE

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, argv: list[str], *rest: Any) -> str:
        self.asked.append(argv)
        if isinstance(self.answer, ClientError):
            raise self.answer
        return self.answer


@pytest.fixture
def pbsnodes(monkeypatch: pytest.MonkeyPatch) -> Pbsnodes:
    made = Pbsnodes()
    monkeypatch.setattr("vllm_hpc.schedulers.pbs.nodes.node_part.__defaults__", (made,))
    return made


def make(desk: Path, model: Path, profile: str = "", **options: Any) -> Prepared:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\nscheduler = 'pbs'\n{profile}\n")
    return prepare(str(model), profile="p", **{"nodes": 1, "gpus_per_node": 2, "tp": 2, **options})


def asked(prepared: Prepared) -> str:
    """The line that asks for nodes, cores, GPUs and memory."""
    lines = (line.removeprefix("#PBS -l ") for line in prepared.script.splitlines())
    return next(line for line in lines if line.startswith("select="))


def test_vnodes_are_added_up_and_what_is_down_is_left_out() -> None:
    assert parse_pbsnodes(VNODES) == [Host(4, 2, 8192, frozenset())]
    assert parse_pbsnodes(IN_SERVICE) == [
        Host(4, 2, 8192, frozenset()),
        Host(8, 96, 1_024_000, frozenset({"gpuq"})),
        Host(4, 64, 515_569, frozenset({"gpuq"})),
        Host(0, 128, 262_144, frozenset()),
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "select=1:ncpus=2:ngpus=2:mpiprocs=1:mem=4096mb"),  # one core: still one a rank
        ({"gpus_per_node": 4, "tp": 4}, "select=1:ncpus=4:ngpus=4:mpiprocs=1:mem=8192mb"),
        ({"partition": "gpuq"}, "select=1:ncpus=24:ngpus=2:mpiprocs=1:mem=256000mb"),
        ({"partition": "gpuq", "nodes": 2, "dp": 2}, "select=2:ncpus=24:ngpus=2:mpiprocs=1:mem=256000mb"),
        ({"partition": "gpuq", "cpus_per_rank": 3}, "select=1:ncpus=6:ngpus=2:mpiprocs=1:mem=256000mb"),
        ({"partition": "gpuq", "mem": "7G"}, "select=1:ncpus=24:ngpus=2:mpiprocs=1:mem=7gb"),
    ],
)
def test_the_share_of_the_smallest_node_is_asked_for(
    desk: Path, model: Path, pbsnodes: Pbsnodes, options: dict[str, Any], line: str
) -> None:
    prepared = make(desk, model, **options)
    assert asked(prepared) == line
    assert sum(reason.startswith("asks for ") for reason in prepared.plan.reasons) == 1
    assert pbsnodes.asked == [["pbsnodes", "-a", "-v", "-F", "json"]]


def test_the_reason_says_how_much(desk: Path, model: Path, pbsnodes: Pbsnodes) -> None:
    words = "asks for 24 cores and 250.0 GiB on each node, the GPUs' part of the smallest that pbsnodes shows"
    assert words in make(desk, model, partition="gpuq").plan.reasons


def test_a_whole_node_is_asked_for_whole(desk: Path, model: Path, pbsnodes: Pbsnodes) -> None:
    line = asked(make(desk, model, "exclusive = true", partition="gpuq"))
    assert line == "select=1:ncpus=64:ngpus=2:mpiprocs=1:mem=515569mb"


@pytest.mark.parametrize(
    ("profile", "options"),
    [
        ("gpus_per_node = 8\ncpus_per_node = 96\nmem_per_node = '1T'", {}),
        ("", {"cpus_per_rank": 2, "mem": "9G"}),
        ("gpu_request = 'queue'", {}),
        ("gpu_flag = 'none'", {"gpus_per_node": None}),
    ],
)
def test_who_has_said_it_is_not_contradicted(
    desk: Path, model: Path, pbsnodes: Pbsnodes, profile: str, options: dict[str, Any]
) -> None:
    make(desk, model, profile, **options)
    assert pbsnodes.asked == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HANGS, "did not answer within"),
        (ClientMissingError("pbsnodes was not found: run this on a login node"), "pbsnodes was not found"),
        (ClientError("pbsnodes refused: Unauthorized Request"), "Unauthorized Request"),
        ("", "pbsnodes' answer is not the JSON of its -F json"),
        ("vm\n     Mom = vm\n", "pbsnodes' answer is not the JSON"),
        ("[]", "pbsnodes' answer is not the JSON"),
        ('{"nodes": {"a": 1}}', "pbsnodes' answer is not the JSON"),
        ('{"nodes": {}}', "pbsnodes shows no node in service with 2 GPUs (ngpus)"),
        ('{"nodes": {"a": {"resources_available": {"ngpus": "@b", "ncpus": 4}}}}', "no node in service with 2 GPUs"),
    ],
)
def test_not_knowing_is_said_once_and_stops_nothing(
    desk: Path, model: Path, pbsnodes: Pbsnodes, answer: str | ClientError, words: str
) -> None:
    pbsnodes.answer = answer
    prepared = make(desk, model)
    assert asked(prepared) == "select=1:ncpus=2:ngpus=2:mpiprocs=1"
    said = [reason for reason in prepared.plan.reasons if words in reason]
    assert len(said) == 1
    assert "cpus_per_node and mem_per_node in the profile" in said[0]


def test_memory_that_a_node_does_not_tell_is_not_asked_for(desk: Path, model: Path, pbsnodes: Pbsnodes) -> None:
    pbsnodes.answer = '{"nodes": {"a": {"resources_available": {"ngpus": 4, "ncpus": 64}}}}'
    assert asked(make(desk, model)) == "select=1:ncpus=32:ngpus=2:mpiprocs=1"
