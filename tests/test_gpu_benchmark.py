"""The benchmark for GPUs, as far as it goes without one: what it runs in which order, tells, and cleans up."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.case import RAW, Case, Figure
from benchmarks.gpu.results import Line, append, choices, outputs, read, table, whole
from benchmarks.gpu.runs import Run, run_all
from tests.marks import needs_torch, needs_vllm
from tests.real_jobs import wait_for


def given(tmp_path: Path, only: str, **more: Any) -> argparse.Namespace:
    options = {
        "shapes": "tiny",
        "gpus": 4,
        "prompts": 64,
        "times": 1,
        "sigma": 0.0,
        "output": 128,
        "engine": [],
        "arms": [],
        "sweep_batch": [],
        "shape_of": "",
        "alone": False,
        "work": tmp_path,
    }
    return argparse.Namespace(**{**options, "results": tmp_path / "results.jsonl", "only": only, **more})


def line(way: str, tokens: int, greedy: str = "", **layout: Any) -> Line:
    figure = Figure(way, 0, 0, 0, 1.0, tokens, "same", 0.0, 1.0, {}, greedy)
    return Line(Case(shape="tiny", ways=(way,), **layout), (figure,))


@needs_vllm
def test_cases_are_run_in_the_order_asked_for_and_not_twice(tmp_path: Path) -> None:
    found = command._missing(given(tmp_path, "mp:tp4,attempt:2x1x2,attempt,submit"))
    assert [(case.ways[0], case.tp, case.pp, case.dp) for case in found[:3]] == [
        ("mp", 4, 1, 1), ("attempt", 2, 1, 2), ("attempt", 4, 1, 1),
    ]  # fmt: skip
    assert found[-1].ways == ("submit",)
    append(tmp_path / "results.jsonl", Line(found[0], ()))
    assert command._missing(given(tmp_path, "mp:tp4,attempt:2x1x2")) == [found[1]]
    with pytest.raises(SystemExit, match="--only 'nothing' is nothing that is measured here: use attempt, "):
        command._missing(given(tmp_path, "mp,nothing"))
    assert len(command._missing(given(tmp_path, ""))) > len(found)


@needs_vllm
def test_an_attempt_alone_is_run_without_others_and_not_where_it_was_run_with_them(tmp_path: Path) -> None:
    (alone,) = command._missing(given(tmp_path, "attempt:tp4", alone=True))
    (together,) = command._missing(given(tmp_path, "attempt:tp4"))
    assert (alone.ways, together.ways) == (("attempt",), ("attempt", "unshared", "generate"))
    append(tmp_path / "results.jsonl", Line(alone, ()))
    assert command._missing(given(tmp_path, "attempt:tp4")) == [together]
    append(tmp_path / "results.jsonl", Line(together, ()))
    assert whole(read(tmp_path / "results.jsonl")) == [Line(together, ())]
    (tmp_path / "results.jsonl").write_text((tmp_path / "results.jsonl").read_text().splitlines()[1] + "\n")
    assert command._missing(given(tmp_path, "attempt:tp4", alone=True)) == []


@needs_vllm
def test_a_submit_is_not_left_out_because_a_replica_on_one_gpu_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """70B has a place on eight GPUs, and finds it; on one GPU it has none."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nfor gpu in 1 2 3 4 5 6 7 8; do echo 'NVIDIA H100 80GB HBM3, 81559'; done\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    only = given(tmp_path, "submit,attempt:dp8", shapes="llama-70b", gpus=8)
    assert [case.ways for case in command._missing(only)] == [("submit",)]
    assert "DP 8: left out: does not fit" in capsys.readouterr().out


@needs_vllm
def test_the_references_are_vllm_by_itself(tmp_path: Path) -> None:
    """The seed's recipe with the seed's settings; an engine for each GPU, and mp, with everybody's."""
    seed, independent, mp = command._missing(given(tmp_path, "seed,independent,mp:tp4"))
    assert (seed.ways, seed.tp, seed.pp, seed.gpus) == (("seed",), 2, 2, 4)
    assert (independent.ways, independent.dp) == (("independent",), 4)
    assert "max_num_seqs" not in seed.engine
    assert independent.engine == mp.engine == {**seed.engine, "max_num_seqs": 512}
    assert all(case.ways[0] in RAW for case in (seed, independent, mp))


@pytest.mark.vllm
@pytest.mark.full
def test_the_seeds_recipe_runs_and_its_ranks_agree(tmp_path: Path) -> None:
    engine = {"load_format": "dummy", "seed": 1}
    case = Case(shape="tiny", ways=("seed",), tp=2, engine=engine, prompts=8, prompt=8, output=4, times=1)
    (lines,) = run_all([case], tmp_path, lambda: 300.0)
    assert [(figure.rank, figure.tokens) for line in lines for figure in line.figures] == [(0, 32), (1, 32)]
    assert table(lines).endswith("| equal |")
    assert outputs(lines) == "tiny, output 4, 8 prompts, TP x PP = 2 x 1: greedy tokens equal: seed"


def test_ways_of_one_layout_make_the_same_of_the_same_batches() -> None:
    """Replicas share out the rows by themselves: there no two ways run the same batches."""
    lines = [line("attempt", 7, "one", tp=2), line("mp", 7, "one", tp=2), line("attempt", 7, "other", dp=2)]
    assert outputs(lines) == "tiny, TP x PP = 2 x 1: greedy tokens equal: attempt, mp"
    lines.append(line("seed", 7, "another", tp=2))
    assert outputs(lines) == "tiny, TP x PP = 2 x 1: greedy tokens DIFFER: attempt one, mp one, seed another"


def test_the_planners_choice_is_held_against_the_best_layout() -> None:
    lines = [line("submit", 7, dp=4), line("attempt", 90, dp=4), line("attempt", 100, tp=4), line("attempt", 60, tp=2)]
    told = choices(lines).splitlines()
    assert told == [
        "tiny, 2048 prompts, 4 GPUs: the planner chose TP x PP x DP = 1 x 1 x 4, 0.90 of the best of 2 layouts run"
    ]
    assert choices(lines[:1] + lines[2:]).endswith(
        "chose TP x PP x DP = 1 x 1 x 4, which was not run by itself: --only attempt:1x1x4"
    )
    few: Any = {"prompts": 16, "output": 1024}
    lines += [line("submit", 7, tp=4, **few), line("attempt", 9, tp=4, **few), line("attempt", 6, dp=4, **few)]
    assert choices(lines).splitlines() == [
        *told,
        "tiny, output 1024, 16 prompts, 4 GPUs: the planner chose TP x PP x DP = 4 x 1 x 1, 1.00 of the best of 2 "
        "layouts run",
    ]


@needs_torch
@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_TNT", "products"),
        ("void flash::FlashAttnFwdSm90<...>", "attention"),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>", "all-reduce, gather"),
        ("ncclDevKernel_AllGather_RING_LL", "all-reduce, gather"),
        ("_topk_topp_kernel", "sampling"),
        ("_gumbel_sample_kernel", "sampling"),
        ("void flashinfer::sampling::TopPSamplingFromProbKernel<1024>", "sampling"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", "norms, activations, rotation"),
        ("void vllm::moe::topkGating<8, 128, 4, 16, 32, int, __nv_bfloat16>", "routing to experts"),
        ("fused_moe_kernel", "products"),
        ("void vllm::dynamic_per_token_scaled_fp8_quant_kernel_strided<...>", "quantisation"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("something", "other"),
    ],
)
def test_what_a_kernel_is_for(kernel: str, kind: str) -> None:
    from benchmarks.gpu.kernels import kind_of

    assert kind_of(kernel) == kind


@needs_torch
def test_some_batches_of_each_kind_are_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from benchmarks.gpu.kernels import Profile

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profile = Profile()
    for sequences, tokens in [*[(4, 40)] * 9, *[(4, 4)] * 40, *[(4, 40)] * 9]:
        profile.before_batch(sequences, tokens)
        torch.ones(8, 8) @ torch.ones(8, 8)
    profile.end()
    prompts, decoding = profile.windows
    assert (prompts.kind, prompts.batches, prompts.tokens) == ("prompts", 4, 160)
    assert (decoding.kind, decoding.batches, decoding.sequences) == ("decoding", 10, 40)
    assert decoding.kernels["aten::mm"][0] == 10
    assert "ms a batch" in decoding.describe()
    assert "10 batches of 4 sequences, 4 tokens" in decoding.describe()


@needs_vllm
def test_a_case_that_is_cut_off_takes_along_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As torchrun does, it starts a process in a session of its own."""
    monkeypatch.setattr(sys, "executable", str(fake_python(tmp_path, "setsid --wait sleep 600; true")))
    run = Run(Case(shape="tiny", ways=("mp",), tp=2), tmp_path)
    assert run._process is not None
    agent = psutil.Process(run._process.pid)
    wait_for(lambda: any(one.name() == "sleep" for one in agent.children(recursive=True)), "a child", 60)
    child = next(one for one in agent.children(recursive=True) if one.name() == "sleep")
    began = time.monotonic()
    assert run.finish(0.1) == []
    assert "cut off" in capfd.readouterr().out
    # Killed it is at once; gone when the kernel has come to it.
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end", 60)
    assert time.monotonic() - began < 60
    run.kill()  # again: nothing is there


def fake_python(folder: Path, command: str) -> Path:
    """A python that runs that, whatever it is asked to run."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{command}\n")
    script.chmod(0o755)
    return script
