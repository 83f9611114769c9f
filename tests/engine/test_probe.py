"""The row of the probe: it can be made whatever the job's own sampling is, and samples as the job does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crafted import layout
from vllm_hpc.engine.loop.probe import make_probe
from vllm_hpc.engine.rehearsal.rows import RehearsalRows
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.inputs


def record(sampling: dict[str, Any], **engine: Any) -> JobRecord:
    return JobRecord(
        request=Request(model="m", rehearse=True), plan=Plan(layout=layout(), engine=engine), scheduler="local",
        model="m", sampling=sampling, rows=3, created_at=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"max_tokens": 500},
        {"max_tokens": None},
        {"min_tokens": 100, "max_tokens": 500},
        {"max_completion_tokens": 300},
        {"temperature": 1.0, "top_p": 0.9, "n": 4, "logprobs": 5},
        {"truncate_prompt_tokens": 1},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_it_is_short_and_else_as_the_jobs_rows(sampling: dict[str, Any]) -> None:
    job = record(sampling)
    probe = make_probe(job, RehearsalRows(job))
    assert probe is not None
    assert (probe.params.max_tokens, probe.params.min_tokens) == (2, 0)
    assert (probe.params.n, probe.params.temperature) == (sampling.get("n", 1), sampling.get("temperature", 1.0))


def test_of_a_pooling_model_it_is_an_embedding() -> None:
    job = record({}, runner="pooling")
    probe = make_probe(job, RehearsalRows(job))
    assert probe is not None
    assert probe.params.embeds


def test_where_it_cannot_be_made_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(row: Row) -> Any:
        raise ValueError("this model reads images")

    assert make_probe(record({}), refuse) is None
    assert "no probe, because its row cannot be made: this model reads images" in capsys.readouterr().out
