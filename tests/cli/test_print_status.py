"""What people read of a job: speeds, failures, and jobs that cannot be read."""

from __future__ import annotations

import pytest

from vllm_hpc.cli.print_status import print_status, print_summary
from vllm_hpc.jobs.artefacts import Artefact
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.summary import Summary

SPEEDS = [(None, ""), (0.0, ""), (0.4, "0.4"), (1.0, "1.0"), (9.9, "9.9"), (10.4, "10.4"), (43999.6, "44,000")]


@pytest.mark.parametrize(("rate", "said"), SPEEDS)
def test_a_slow_job_has_a_speed_and_one_without_rows_has_none(
    capsys: pytest.CaptureFixture[str], rate: float | None, said: str
) -> None:
    rows = Rows(3, 1)
    print_status(
        Status(
            job="/runs/a",
            job_id="1",
            scheduler="local",
            state="RUNNING",
            reason="",
            rows=rows,
            tokens_per_s=rate,
            attempts=1,
        )
    )
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("speed")] == [said] * bool(said)
    assert "1 attempt\n" in "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"
    print_summary(
        Summary(
            job="/runs/one",
            uuid="",
            rows={"total": 3, "done": 3, "failed": 0, "missing": 0},
            prompt_tokens=1,
            completion_tokens=2,
            seconds=5.0,
            tokens_per_s=rate,
            timings={},
            outputs="/runs/a/outputs.jsonl",
            state="COMPLETED",
        )
    )
    speed = f" ({said} tokens/s while generating)" if said else ""
    assert f"2 output tokens in 5 s{speed}: /runs/a/outputs.jsonl" in capsys.readouterr().out


def test_the_artefacts_of_a_program_beside_the_rows_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = Summary(
        job="/runs/one",
        uuid="",
        rows={"total": 1, "done": 1, "failed": 0, "missing": 0},
        prompt_tokens=1,
        completion_tokens=2,
        seconds=5.0,
        tokens_per_s=None,
        timings={},
        outputs="/runs/one/outputs.jsonl",
        state="COMPLETED",
        artefacts=[Artefact("rank-0/a.pt", 3), Artefact("rank-1/a.pt", 4)],
    )
    print_summary(found)
    assert capsys.readouterr().out == (
        "1 of 1 rows, 2 output tokens, 2 artefacts (7 bytes) in 5 s: /runs/one/outputs.jsonl\n"
    )
