"""Reasons of Slurm's for which waiting does not help: what a person reads then."""

from __future__ import annotations

import pytest

from vllm_hpc.schedulers.slurm.reasons import HOPELESS, explain_reason


@pytest.mark.parametrize(
    "reason",
    ["PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "BadConstraints",
     "AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit"],
)  # fmt: skip
def test_a_reason_that_stays_says_what_to_change(reason: str) -> None:
    said = explain_reason(reason)
    assert said.startswith(f"{reason}: cannot start as requested: ")
    assert "--" in said
    assert said.isprintable()


def test_a_time_limit_names_both_ways_out() -> None:
    assert "cannot start as requested: lower --time, or choose another --partition" in explain_reason(
        "PartitionTimeLimit"
    )


@pytest.mark.parametrize(
    "reason",
    ["Resources", "Priority", "ReqNodeNotAvail", "None", "", "odd words", "QOSMaxJobsPerUserLimit", "Licenses",
     "BeginTime", "Dependency", "InactiveLimit", "JobArrayTaskLimit", "AssocMaxJobsLimit",
     "QOSMaxSubmitJobPerUserLimit", "QOSMaxCpuPerUserLimit", "QOSMaxGRESPerUser", "MaxGRESPerAccount",
     "MaxCpuRunMinsPerUser", "AssocGrpGRES",
     "QOSGrpNodeLimit", "QOSGrpCPURunMinutesLimit", "AssocGrpBillingRunMinutes", "QOSUsageThreshold", "PartitionDown",
     "ReqNodeNotAvail, UnavailableNodes:node[1-4,7]", "ReqNodeNotAvail, Reserved for maintenance",
     "ReqNodeNotAvail, May be reserved for other job",
     "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"],
)  # fmt: skip
def test_a_reason_that_goes_away_stays_as_it_is(reason: str) -> None:
    assert reason not in HOPELESS
    assert explain_reason(reason) == reason


# The first seven as squeue of slurm-wlm 22.05.8 printed them; the others from job_state_reason.c and slurmctld (26.05).
HELD = {
    "JobHeldUser": "'scontrol release 12' lets it run",
    "job requeued in held state": "'scontrol release 12' lets it run",
    "launch failed requeued held": "a node failed to start it: 'scontrol release 12' tries again",
    "JobHeldAdmin": "ask the site why",
    "JobHoldMaxRequeue": "nodes failed to start it too often",
    "launch failure limit exceeded requeued held": "nodes failed to start it too often",
    "job requeued in special exit state": "'scontrol release 12' lets it run",
    "user env retrieval failed requeued held": "a node failed to start it",
    "License request 'ansys:2' is no longer valid, holding job": "ask the site why",
    "ReservationDeleted": "its reservation is gone",
    "Reservation a|b was deleted": "its reservation is gone",
    "Reservation x is invalid": "its reservation is gone",
    "BurstBufferOperation": "its burst buffer failed",
    "burst_buffer/datawarp: setup: no pool": "its burst buffer failed",
}


@pytest.mark.inputs
@pytest.mark.parametrize("reason", HELD)
def test_who_is_held_is_told_how_to_be_released(reason: str) -> None:
    said = explain_reason(reason, "12")
    assert said.startswith(f"{reason}: held: ")
    assert HELD[reason] in said


LIMITS = {
    # squeue of slurm-wlm 22.05.8
    "QOSMaxGRESPerJob": "lower --nodes or --gpus-per-node, or choose another --qos",
    "QOSMaxCpuPerJobLimit": "lower --cpus-per-rank or --nodes, or choose another --qos",
    "QOSMinCpuNotSatisfied": "raise --cpus-per-rank or --nodes, or choose another --qos",
    # job_state_reason.c and slurmctld (26.05)
    "MaxMemPerLimit": "lower --mem, or choose another --partition",
    "AssocMaxNodePerJobLimit": "lower --nodes, or choose another --account",
    "QOSMaxNodePerJobLimit": "lower --nodes, or choose another --qos",
    "AssocMaxGRESPerNode": "lower --nodes or --gpus-per-node, or choose another --account",
    "AssocMaxMemPerJob": "lower --mem, or choose another --account",
    "AssocMaxCpuMinutesPerJobLimit": "lower --time, --nodes or --gpus-per-node, or choose another --account",
    "QOSMaxGRESMinutesPerJob": "lower --time, --nodes or --gpus-per-node, or choose another --qos",
    "QOSMinMemory": "raise --mem, or choose another --qos",
    "AssocGrpCPUMinutesLimit": "the hours of this --account are used up: choose another one",
    "QOSGrpBillingMinutes": "the hours of this --qos are used up: choose another one",
    "AssocMaxUnknownPerJob": "lower --nodes or --gpus-per-node, or choose another --account",
    "Job's QOS not permitted to use this partition (gpu allows a,b not normal)": "choose another --qos or --partition",
    "Job's account not permitted to use this partition (gpu denies x including y)": "choose another --account or",
    "uid 1000 not in group permitted to use this partition (gpu). groups allowed: a|b": "choose another --partition",
}


@pytest.mark.inputs
@pytest.mark.parametrize("reason", LIMITS)
def test_a_limit_that_waiting_does_not_lift_names_what_to_change(reason: str) -> None:
    assert explain_reason(reason).startswith(f"{reason}: cannot start as requested: {LIMITS[reason]}")
