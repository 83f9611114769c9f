"""Arms and sweeps of the benchmark for GPUs: what is run in which order, and what its tables tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.gpu.arm_tables import arms_table, sweep_table
from benchmarks.gpu.arms import ARMS, arm_cases
from benchmarks.gpu.case import Case, Figure, make_rows
from benchmarks.gpu.lengths import LENGTHS
from benchmarks.gpu.limits import Limits
from benchmarks.gpu.results import Line
from benchmarks.gpu.roofline import roofline_of
from tests.marks import needs_torch, needs_vllm

pytestmark = pytest.mark.throughput
MLPERF = Case(shape="llama-8b", ways=("submit",), prompts=4096, lengths="mlperf-8b")


@pytest.mark.parametrize("number", [256, 2048, 4096, 13_368])
def test_lengths_have_the_stated_mean_and_ends_however_many_rows_there_are(number: int) -> None:
    drawn = LENGTHS["mlperf-8b"].of_prompts(number)
    assert len(drawn) == number
    assert sum(drawn) / number == pytest.approx(779, abs=1)
    assert min(drawn) >= 64 and max(drawn) == 2540
    assert drawn == LENGTHS["mlperf-8b"].of_prompts(number) != sorted(drawn)


def test_rows_have_these_lengths_and_are_greedy() -> None:
    case = msgspec.structs.replace(MLPERF, prompts=32)
    rows = make_rows(case, 4096)
    assert [len(row["prompt"]) for row in rows] == LENGTHS["mlperf-8b"].of_prompts(32)
    assert {row["sampling"]["max_tokens"] for row in rows} == {128}
    assert case.sampling["temperature"] == 0.0
    assert rows == make_rows(case, 4096)


def test_submits_take_turns_and_engines_hold_the_most_of_a_sweep() -> None:
    found = arm_cases(MLPERF, {"max_num_seqs": 512}, ["bf16", "fp8"], [], 2)
    assert [(case.arm, case.turn, case.times) for case in found] == [
        ("bf16", 0, 1), ("fp8", 0, 1), ("bf16", 1, 1), ("fp8", 1, 1),
    ]  # fmt: skip
    assert found[1].engine == {"load_format": "dummy", "quantization": "fp8"}  # max_num_seqs is the planner's
    (swept,) = arm_cases(MLPERF, {}, ["fp8-kv"], [Limits(512), Limits(1792, 65_536)], 2)
    assert swept.ways == ("attempt@512x16384", "attempt@1792x65536")
    assert swept.engine == {**ARMS["fp8-kv"], "max_num_seqs": 1792, "max_num_batched_tokens": 65_536}
    assert (swept.times, swept.turn) == (2, 0)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1e3", "512x", "x512", "512x16", " 512", "512 ", "٥١٢", "1" * 9, "512X600"]
)
def test_hostile_limits_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Limits.read(text)


@pytest.mark.parametrize("limits", [Limits(1), Limits(1024), Limits(1792, 65_536)])
def test_limits_are_found_again_in_the_name_of_a_way(limits: Limits) -> None:
    assert Limits.named(limits.way) == limits
    assert Limits.named("attempt") is None


def test_the_roofline_is_that_of_the_page() -> None:
    """docs/performance.md, "The roofline", but for H200's bandwidth: 21.3 s of prompts on two GPUs, 10.4 ms a step."""
    allowed = roofline_of(Case(shape="llama-8b", ways=("attempt",), dp=2, prompts=8192))
    assert allowed.products == pytest.approx(
        21.3 * 7.5 / 8.03, rel=0.01
    )  # without the embedding, which is not multiplied
    assert allowed.decoding == pytest.approx(8 * 128 * 10.4e-3 * 7.5 / 8.03, rel=0.01)
    assert allowed.reads == pytest.approx(8 * 128 * 12.5e-3 * 3.0 / 4.3, rel=0.01)
    fp8, kv = (roofline_of(one) for one in arm_cases(MLPERF, {}, ["fp8", "fp8-kv"], [], 1))
    assert 4096 * 128 / fp8.whole == pytest.approx(11_200, rel=0.02)
    assert kv.reads < 0.6 * fp8.reads


def figure(way: str, seconds: float, number: int = 0, **more: Any) -> Figure:
    start = {"import": 20.0, "load": 40.0, "capture": 7.5}
    return Figure(way, number, 0, 0, seconds, 4096 * 128, "same", 0.01, 1.0, start, **more)


def test_a_table_has_each_arm_its_parts_and_what_is_published() -> None:
    parts = {
        "launch": 4.6,
        "import": 20.0,
        "load": 40.0,
        "warm-up": 1.0,
        "generate": 73.0,
        "drain": 1.0,
        "whole": 145.2,
    }
    cases = arm_cases(MLPERF, {}, ["fp8"], [], 2)
    told = arms_table(
        [Line(case, (figure("submit", s, parts=parts),)) for case, s in zip(cases, (74, 76), strict=True)]
    )
    assert "| llama-8b, 4096 rows of mlperf-8b | fp8 | submit | 6,992 (6,899 - 7,085) | 0.85 | 4.6 | 20.0 |" in told
    assert "| published | fp8 | TensorRT-LLM, H200 (5.1, the best) | 8,255 | 1.00 |" in told
    tables = [block.splitlines() for block in told.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:  # no cell is missing
        assert len({line.count("|") for line in table}) == 1


def test_a_sweep_is_held_against_its_first_limit() -> None:
    (case,) = arm_cases(MLPERF, {}, ["fp8"], [Limits(512), Limits(1024)], 2)
    seconds = {case.ways[0]: (80, 80), case.ways[1]: (72, 80)}
    figures = tuple(figure(way, s, number) for way, both in seconds.items() for number, s in enumerate(both))
    told = sweep_table([Line(case, figures)]).splitlines()
    assert told[2].endswith("| 512 | 16384 | 6,554 (6,554 - 6,554) | 1.000 | 60 | 7.5 |")
    assert told[3].endswith("| 1024 | 16384 | 6,918 (6,554 - 7,282) | 1.056 | 60 | 7.5 |")
    assert arms_table([Line(case, figures)]) == sweep_table([]) == ""


@needs_torch
def test_an_engine_has_its_own_limits_again_after_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from benchmarks.one_engine import OneEngine

    scheduler = SimpleNamespace(max_num_running_reqs=2048, max_num_scheduled_tokens=65_536)  # 0.26 has these two
    config = SimpleNamespace(max_num_seqs=2048)
    bench: Any = object.__new__(OneEngine)
    bench.engine = SimpleNamespace(
        vllm_config=SimpleNamespace(scheduler_config=config),
        engine_core=SimpleNamespace(engine_core=SimpleNamespace(scheduler=scheduler)),
    )

    def attempt(rows: Any) -> None:
        assert vars(scheduler) == {"max_num_running_reqs": 512, "max_num_scheduled_tokens": 16_384}
        assert config.max_num_seqs == 512
        raise KeyError("it ends early")

    monkeypatch.setattr(bench, "attempt", attempt)
    with pytest.raises(KeyError):
        bench.limited([], 512, 16_384)
    assert vars(scheduler) == {"max_num_running_reqs": 2048, "max_num_scheduled_tokens": 65_536}
    assert config.max_num_seqs == 2048


@needs_vllm
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--sweep-batch 512 --gpus 2", "--gpus 1"),
        ("--sweep-batch 512 --only submit", "must be one of attempt"),
        ("--shape-of mlperf-8b --output 5", "--output must be left out"),
        ("--arms bf16 --sigma 1", "--sigma and --alone"),
        ("--arms bf17", "'bf17' is not known: use bf16"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from benchmarks.gpu import __main__ as command

    monkeypatch.setattr("sys.argv", ["gpu", "--results", str(tmp_path / "r.jsonl"), *words.split()])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
