"""Whether a partition or queue takes a job, by what Slurm and PBS print of it."""

from __future__ import annotations

import pytest

from vllm_hpc.doctor.accounts import judge_accounts
from vllm_hpc.doctor.queues import ask_pbs, ask_slurm, judge_queue
from vllm_hpc.schedulers.client import ClientError

pytestmark = pytest.mark.admins

# scontrol show partition --oneliner of Slurm 22.05, shortened.
SCONTROL = (
    "PartitionName=debug AllowGroups=ALL AllowAccounts=ALL Default=YES QoS=N/A DefaultTime=NONE MaxNodes=4 "
    "MaxTime=00:30:00 MinNodes=0 Nodes=n[1-8] State=UP TotalCPUs=64 TotalNodes=8\n"
    "PartitionName=batch Default=NO MaxNodes=UNLIMITED MaxTime=2-00:00:00 MinNodes=2 State=UP TotalNodes=100\n"
    "PartitionName=old Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 State=DOWN TotalNodes=100\n"
)
SLURM = ask_slurm(lambda argv: SCONTROL)
# qstat -Qf of OpenPBS 23.06, shortened.
QSTAT = (
    "Queue: prod\n    queue_type = Execution\n    total_jobs = 3\n    resources_max.nodect = 496\n"
    "    resources_max.walltime = 24:00:00\n    resources_min.nodect = 10\n    enabled = True\n    started = True\n\n"
    "Queue: debug\n    queue_type = Execution\n    resources_max.nodect = 2\n    resources_max.walltime = 01:00:00\n"
    "    enabled = True\n    started = False\n\n"
)
PBS = ask_pbs(lambda argv: QSTAT)


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
    ("asked", "nodes", "status", "words"),
    [
        ("prod", 10, "ok", "prod takes 10 nodes, up to 24:00:00"),
        ("prod", 2, "fail", "starts at 10 nodes, not 2"),
        ("debug", 1, "fail", "it is not started"),
        ("nowhere", 1, "fail", "there is no 'nowhere'"),
        (None, 1, "skip", "the scheduler's default"),
    ],
)
def test_pbs(asked: str | None, nodes: int, status: str, words: str) -> None:
    found = judge_queue(PBS, asked, nodes, None)
    assert found.status == status
    assert words in found.found


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
