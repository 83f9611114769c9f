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


@pytest.mark.parametrize("reason", ["Resources", "Priority", "ReqNodeNotAvail", "JobHeldUser", "None", "", "odd words"])
def test_a_reason_that_goes_away_stays_as_it_is(reason: str) -> None:
    assert reason not in HOPELESS
    assert explain_reason(reason) == reason
