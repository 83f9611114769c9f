"""Whether a partition or queue takes a job, by what Slurm and PBS print of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_hpc.doctor.accounts import judge_accounts
from vllm_hpc.doctor.queues import Limits, ask_pbs, ask_slurm, judge_queue, pbs_limits
from vllm_hpc.schedulers.client import Ask, ClientError

pytestmark = pytest.mark.admins

# scontrol show partition --oneliner of Slurm 22.05, shortened.
SCONTROL = (
    "PartitionName=debug AllowGroups=ALL AllowAccounts=ALL Default=YES QoS=N/A DefaultTime=NONE MaxNodes=4 "
    "MaxTime=00:30:00 MinNodes=0 Nodes=n[1-8] State=UP TotalCPUs=64 TotalNodes=8\n"
    "PartitionName=batch Default=NO MaxNodes=UNLIMITED MaxTime=2-00:00:00 MinNodes=2 State=UP TotalNodes=100\n"
    "PartitionName=old Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 State=DOWN TotalNodes=100\n"
)
SLURM = ask_slurm(lambda argv: SCONTROL)
RECORDED = Path(__file__).parents[1] / "pbs" / "recorded"


def recorded(suffix: str, *refused: str) -> Ask:
    """The answers of an OpenPBS 23.06.06 of two hosts; its queue prod passes jobs on to small and medium."""

    def ask(argv: list[str]) -> str:
        what = {"-Q": "queues", "-B": "server", "-a": "nodes"}[argv[1]]
        if what in refused:
            raise ClientError(f"{argv[0]} refused: Unauthorized Request")
        if suffix == "txt" and "json" in argv:
            return '{"Queue":{"x":{"comment":"a"b"}}}'  # what an older PBS prints is no JSON
        return (RECORDED / f"two_hosts_{what}.{suffix}").read_text()

    return ask


@pytest.fixture(params=["json", "txt"])
def pbs(request: pytest.FixtureRequest) -> Limits:
    return ask_pbs(recorded(request.param))


@pytest.mark.parametrize(
    ("asked", "nodes", "time_s", "status", "words"),
    [
        (None, 4, 1800, "ok", "debug takes 4 nodes, up to 0:30:00"),
        ("batch", 2, 86400, "ok", "batch takes 2 nodes, up to 48:00:00"),
        ("debug,batch", 8, None, "ok", "batch takes 8 nodes"),
        ("nowhere", 1, None, "fail", "there is no 'nowhere'; there are debug, batch, old"),
        ("debug", 5, None, "fail", "at most 4 nodes, not 5"),
        ("debug", 1, 3600, "fail", "at most 0:30:00, not 1:00:00"),
        ("batch", 1, None, "fail", "starts at 2 nodes, not 1"),
        ("old", 1, None, "fail", "its state is DOWN"),
    ],
)
def test_slurm(asked: str | None, nodes: int, time_s: int | None, status: str, words: str) -> None:
    found = judge_queue(SLURM, asked, nodes, time_s)
    assert found.status == status
    assert words in found.found
    assert bool(found.advice) == (status == "fail")


def test_the_one_that_fits_is_named() -> None:
    assert judge_queue(SLURM, "debug", 5, None).advice == "these do: batch"
    assert "fewer nodes" in judge_queue(SLURM, "debug", 500, None).advice


@pytest.mark.parametrize(
    ("asked", "nodes", "time_s", "status", "words"),
    [
        (None, 2, None, "ok", "workq takes 2 nodes"),
        (None, 3, None, "fail", "workq does not take the job: it has at most 2 nodes, not 3"),
        ("debug", 2, 3600, "ok", "debug takes 2 nodes, up to 1:00:00"),
        ("debug", 2, 7200, "fail", "its walltime is at most 1:00:00, not 2:00:00"),
        ("small", 1, None, "fail", "only prod passes jobs on to it"),
        ("prod", 2, 86400, "ok", "prod takes 2 nodes"),
        ("prod", 1, 7200, "fail", "passes jobs on to takes it (small: its walltime is at most 1:00:00"),
        ("prod", 5, None, "fail", "(small: it has at most 1 node, not 5; medium: it has at most 2 nodes, not 5)"),
        ("nowhere", 1, None, "fail", "there is no 'nowhere'"),
    ],
)
def test_pbs(pbs: Limits, asked: str | None, nodes: int, time_s: int | None, status: str, words: str) -> None:
    found = judge_queue(pbs, asked, nodes, time_s)
    assert found.status == status
    assert words in found.found


def test_no_queue_is_advised_to_which_pbs_takes_no_job() -> None:
    advice = judge_queue(ask_pbs(recorded("json")), "debug", 2, 7200).advice
    assert advice == "these do: workq, prod, preemptable"


def test_a_server_that_tells_only_of_its_queues() -> None:
    queues = ask_pbs(recorded("json", "server", "nodes"))
    assert judge_queue(queues, None, 500, None).status == "skip"
    assert judge_queue(queues, "workq", 500, None).status == "ok"
    with pytest.raises(ClientError, match="qstat refused"):
        ask_pbs(recorded("json", "queues"))


@pytest.mark.parametrize("odd", [None, "", [], {}, -1, "x", "\x00", -(10**30), True, ["a"], {"nodect": []}, "²"])
def test_values_that_no_pbs_prints_limit_nothing(odd: object) -> None:
    keys = ("resources_max", "resources_min", "route_destinations", "from_route_only")
    limits = {"nodect": odd, "walltime": odd}
    for fields in (dict.fromkeys(keys, odd), {"resources_max": {"walltime": odd}, "resources_min": limits}):
        queues = pbs_limits({"q": fields, "other": {}}, "q")
        assert judge_queue(queues, "q", 2, 60).status == ("fail" if "True" in str(fields.get(keys[3])) else "ok")


def test_a_pbs_queue_that_is_closed_or_starts_with_many_nodes() -> None:
    queues = pbs_limits(
        {"off": {"enabled": "True", "started": "False"}, "large": {"resources_min": {"nodect": 10}}, "odd": {"x": 1}}
    )
    assert judge_queue(queues, "off", 1, None).found == "off does not take the job: it is not started"
    assert judge_queue(queues, "large", 2, None).found == "large does not take the job: it starts at 10 nodes, not 2"
    assert judge_queue(queues, "odd", 2, 60).status == "ok"
    seconds = pbs_limits({"short": {"resources_max": {"walltime": 3600}}})
    assert "at most 1:00:00, not 2:00:00" in judge_queue(seconds, "short", 1, 7200).found


@pytest.mark.parametrize(
    "text", ["", "garbage\n" * 100, "PartitionName=", "Queue: \n", "PartitionName=x MaxTime=\x00 MaxNodes=-3"]
)
def test_damaged_lists_are_no_error(text: str) -> None:
    for queues in (ask_slurm(lambda argv: text), ask_pbs(lambda argv: text)):
        assert judge_queue(queues, None, 1, 60).status in ("ok", "skip")


def test_accounts() -> None:
    def ask(argv: list[str]) -> str:
        return "open|normal,debug\nclosed|normal\n"

    assert [one.status for one in judge_accounts(ask, "open", "debug")] == ["ok"]
    assert [one.status for one in judge_accounts(ask, "OPEN", None)] == ["ok"]
    ((account),) = judge_accounts(ask, "mine", None)
    assert (account.status, account.found) == ("fail", "'mine' is not one of yours: closed, open")
    assert [(one.check, one.status) for one in judge_accounts(ask, "CLOSED", "debug")] == [
        ("account", "ok"),
        ("qos", "fail"),
    ]


def test_accounting_that_is_off_says_nothing_against_an_account() -> None:
    def ask(argv: list[str]) -> str:
        raise ClientError("sacctmgr refused: You are not running a supported accounting_storage plugin")

    assert [one.status for one in judge_accounts(ask, "open", None)] == ["skip"]
    assert [one.status for one in judge_accounts(lambda argv: "", "open", None)] == ["skip"]
