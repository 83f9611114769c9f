"""What people read of a job: speeds, failures, and jobs that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vllm_hpc.cli.print_status import _answer, print_status, print_summary
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


def test_the_status_of_one_job_loads_no_tables_no_rows_and_no_profiles() -> None:
    """A script asks for it in a loop: these were a third of its CPU time."""
    program = (
        "import sys, vllm_hpc.cli.jobs, vllm_hpc.cli.print_status, vllm_hpc.jobs.find, vllm_hpc.jobs.status\n"
        "import vllm_hpc.schedulers.slurm\n"
        "print(sorted({*sys.modules} & {'rich', 'vllm_hpc.rows', 'vllm_hpc.spec.profile', 'vllm_hpc.cli.options',"
        " 'vllm_hpc.api', 'torch'}))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert told.stdout == "[]\n"


def test_a_pipe_gets_a_status_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(
        Status(job="/runs/a\x1b[2J", job_id="1", scheduler="local", state="FAILED", reason="out", rows=Rows(3))
    )
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "state      FAILED\n           out\n" in shown


def batch(**choice: Any) -> dict[str, Any]:
    return {"response": {"body": {"choices": [choice]}}}


ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"text": " an answer\n"}, "an answer"),
    ({"outputs": [{"text": "first"}, {"text": "second"}]}, "first"),
    ({"embedding": [0.5] * 8}, "8 numbers"),
    ({"error": {"type": "E", "message": "no"}}, "E: no"),
    ({"response": None, "error": {"code": "E", "message": "no"}}, "E: no"),
    (batch(message={"content": "an answer"}), "an answer"),
    (batch(message={"content": ""}), ""),
    (batch(message={"role": "assistant", "content": None, "tool_calls": []}), "(none)"),
    (batch(text="an answer"), "an answer"),
    ({"response": {"body": {"data": 1}}}, '{"data":1}'),
]


@pytest.mark.throughput
@pytest.mark.parametrize(("row", "text"), ANSWERS, ids=range(len(ANSWERS)))
def test_the_first_answer_of_each_kind_of_row(row: dict[str, Any], text: str) -> None:
    assert _answer(row).plain == text
