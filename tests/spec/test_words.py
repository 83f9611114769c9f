"""Numbers in sentences, and in what users see of a job."""

from __future__ import annotations

import msgspec
import pytest

from tests.schedulers.test_script import CONTEXT
from vllm_hpc.schedulers.script import render_script
from vllm_hpc.spec.solve_layout import Asked, solve
from vllm_hpc.spec.words import counted, rate


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1000, "1000 rows")])
def test_one_thing_and_several(number: int, said: str) -> None:
    assert counted(number, "row") == said


@pytest.mark.parametrize("template", ["slurm.sbatch.j2", "pbs.sh.j2", "local.sh.j2"])
@pytest.mark.parametrize(("nodes", "ranks"), [(1, 1), (2, 8)])
def test_the_head_of_a_script_counts_ranks_and_nodes(template: str, nodes: int, ranks: int) -> None:
    context = msgspec.structs.replace(CONTEXT, nodes=nodes, world_size=ranks)
    head = render_script(template, context).splitlines()[2]
    assert head.startswith(f"# Runs {counted(ranks, 'rank')} on ")
    assert "(s)" not in head


@pytest.mark.parametrize("template", ["slurm.sbatch.j2", "pbs.sh.j2"])
def test_the_head_of_an_array_says_what_a_task_is(template: str) -> None:
    context = msgspec.structs.replace(CONTEXT, nodes=1, world_size=8, tp=8, dp=4, tasks=4, is_array=True)
    lines = render_script(template, context).splitlines()[2:4]
    assert lines == [
        "# A job array of 4 tasks, which share this folder. Each is one replica:",
        "# 8 ranks on 1 node, TP 8 x PP 1.",
    ]


def test_the_reasons_of_a_layout_count_too() -> None:
    _, reasons = solve(Asked(nodes=1, gpus_per_node=4, tp=4))
    assert reasons == ["4 GPUs / (TP × PP = 4): DP = 1"]
    _, reasons = solve(Asked(tp=1), 1)
    assert reasons[0] == "1 GPU for TP × PP × DP: one node"


@pytest.mark.parametrize(
    ("speed", "words"),
    [
        (None, ""),
        (float("nan"), ""),
        (float("inf"), ""),
        (0.0, "0.0"),
        (7.26, "7.3"),
        (99.96, "100"),
        (1234.5, "1,234"),
    ],
)
def test_a_rate_is_worded_alike_everywhere(speed: float | None, words: str) -> None:
    assert rate(speed) == words
