"""plan and --order: which order is chosen and why, what it would gain, and where it is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.real_jobs import write_input
from vllm_hpc.jobfolder import sorted_copy
from vllm_hpc.planner import make_plan
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.resolved_job import ResolvedJob

pytestmark = [pytest.mark.throughput, pytest.mark.usefixtures("model")]
GREEDY = ("--temperature", "0")


def documents(count: int = 300, questions: int = 4, **sampling: Any) -> list[Row]:
    """Rows whose documents are, in a shuffled file, too far apart for a KV cache that is not known: 131,072 tokens."""
    chance = random.Random(1)
    texts = ["".join(chance.choices("abcdefgh ", k=6000)) for _ in range(count)]
    rows: list[Row] = [
        {"prompt": f"{text} {number}?", "sampling": sampling} for text in texts for number in range(questions)
    ]
    chance.shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_input(tmp_path_factory.mktemp("rows") / "rows.jsonl", documents())


def planned(run_cli: Cli, rows: Path, *words: str) -> tuple[str, list[str]]:
    """The order of a plan, and what its reasons say of it."""
    outcome = run_cli(
        "plan", "model", "--input", rows, "--scheduler", "slurm", "--nodes", "1", "--gpu", "h100-80", "--json", *words
    )
    assert outcome.code == 0, outcome.err
    plan = json.loads(outcome.out)
    return plan["order"], [reason for reason in plan["reasons"] if "order" in reason]


@pytest.mark.parametrize(
    "words",
    [
        GREEDY,
        ("--seed-rows",),
        ("--sampling", "temperature=0"),
        ("--sampling", "seed=3"),
        ("--order", "prefix"),
        ("--order", "prefix", *GREEDY),
    ],
    ids=" ".join,
)
def test_rows_that_begin_alike_run_next_to_each_other(run_cli: Cli, shuffled: Path, words: tuple[str, ...]) -> None:
    order, (reason,) = planned(run_cli, shuffled, "--engine", "kv_cache_memory_bytes=1000000000", *words)
    assert order == "prefix"
    assert "million prompt tokens" in reason


@pytest.mark.parametrize("words", [(), ("--temperature", "0.5"), ("--sampling", "top_k=3")], ids=" ".join)
def test_sampled_rows_keep_their_order_and_the_gain_is_told(
    run_cli: Cli, shuffled: Path, words: tuple[str, ...]
) -> None:
    order, (reason,) = planned(run_cli, shuffled, "--engine", "kv_cache_memory_bytes=1000000000", *words)
    assert order == "input"
    assert "1200 rows are sampled without a seed of their own" in reason
    assert "--order prefix would save 0." in reason


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"seed": 5}])
def test_a_seed_or_temperature_of_each_row_allows_it(run_cli: Cli, tmp_path: Path, sampling: dict[str, Any]) -> None:
    rows = write_input(tmp_path / "rows.jsonl", documents(60, **sampling))
    assert planned(run_cli, rows, "--engine", "kv_cache_memory_bytes=100000000")[0] == "prefix"


def test_one_sampled_row_is_enough_to_keep_the_order(run_cli: Cli, tmp_path: Path) -> None:
    rows = write_input(tmp_path / "rows.jsonl", [*documents(60, temperature=0), {"prompt": "a"}])
    order, (reason,) = planned(run_cli, rows, "--engine", "kv_cache_memory_bytes=100000000")
    assert order == "input" and "1 row" in reason


def test_a_seed_of_minus_one_is_none(run_cli: Cli, tmp_path: Path) -> None:
    """As vLLM takes it."""
    rows = write_input(tmp_path / "rows.jsonl", documents(60, seed=-1))
    assert planned(run_cli, rows, "--engine", "kv_cache_memory_bytes=100000000")[0] == "input"


def test_order_input_is_kept_and_the_gain_told(run_cli: Cli, shuffled: Path) -> None:
    words = ("--order", "input", "--engine", "kv_cache_memory_bytes=1000000000")
    order, (reason,) = planned(run_cli, shuffled, *GREEDY, *words)
    assert order == "input" and "as asked: --order prefix would save" in reason


def test_what_the_cache_holds_anyway_is_no_gain(run_cli: Cli, tmp_path: Path) -> None:
    rows = write_input(tmp_path / "rows.jsonl", documents(10))
    assert planned(run_cli, rows, *GREEDY) == ("input", [])


def test_without_sharing_an_order_that_was_asked_for_is_answered(run_cli: Cli, tmp_path: Path) -> None:
    rows = write_input(tmp_path / "rows.jsonl", documents(40, 1))
    order, (reason,) = planned(run_cli, rows, "--order", "prefix")
    assert order == "input" and "no two rows begin alike" in reason


REFUSED = {
    "prefix caching is off": (("--engine", "enable_prefix_caching=false"), "enable_prefix_caching"),
    "pooling": (("--engine", "runner=pooling"), "runner=pooling"),
    "prompt_logprobs": (("--sampling", "prompt_logprobs=1"), "prompt_logprobs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_prefix_is_refused_where_nothing_is_shared(run_cli: Cli, shuffled: Path, case: str) -> None:
    words, said = REFUSED[case]
    outcome = run_cli(
        "submit", "model", "--input", shuffled, "--scheduler", "slurm", "--nodes", "1", "--order", "prefix", *words
    )
    assert outcome.code == 2 and said in outcome.err and "--order prefix" in outcome.err
    assert planned(run_cli, shuffled, *words, *GREEDY) == ("input", [])


@pytest.mark.parametrize("word", ["", "Prefix", "none", "1", "prefix\0", "prefix,input"])
def test_no_other_order_is_known(run_cli: Cli, shuffled: Path, word: str) -> None:
    outcome = run_cli("plan", "model", "--input", shuffled, "--order", word)
    assert outcome.code == 2 and "Traceback" not in outcome.err


def test_no_room_for_the_copy(run_cli: Cli, shuffled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_copy, "ROOM", 10**12)
    words = ("--engine", "kv_cache_memory_bytes=1000000000")
    order, (reason,) = planned(run_cli, shuffled, *GREEDY, *words)
    assert order == "input" and "but needs" in reason
    outcome = run_cli(
        "plan", "model", "--input", shuffled, "--scheduler", "slurm", "--nodes", "1", "--order", "prefix", *words
    )
    assert outcome.code == 2 and "use --order input, or make room" in outcome.err


def test_without_room_the_plan_is_that_of_the_inputs_order(
    run_cli: Cli, shuffled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        *("plan", "model", "--input", shuffled, "--scheduler", "slurm", "--nodes", "1", "--gpu", "h100-80", "--json")
    ]
    words += [*GREEDY, "--engine", "kv_cache_memory_bytes=1000000000"]
    sorted_, asked = (json.loads(run_cli(*words, *more).out) for more in ((), ("--order", "input")))
    monkeypatch.setattr(sorted_copy, "ROOM", 10**12)
    found = json.loads(run_cli(*words).out)
    assert found["concurrency"] == asked["concurrency"] < sorted_["concurrency"]
    assert found["cost"] == asked["cost"] != sorted_["cost"]


def test_the_plan_is_made_again_only_without_room(
    run_cli: Cli, shuffled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    once = make_plan._planned

    def counted(job: ResolvedJob, *rest: Any) -> Plan:
        asked.append(job.request.order)
        return once(job, *rest)

    monkeypatch.setattr(make_plan, "_planned", counted)
    few = write_input(tmp_path / "rows.jsonl", documents(10))
    small = ("--engine", "kv_cache_memory_bytes=1000000000")
    assert [planned(run_cli, rows, *GREEDY, *words)[0] for rows, words in ((few, ()), (shuffled, small))] == [
        "input",
        "prefix",
    ]
    assert asked == [None, None]
    monkeypatch.setattr(sorted_copy, "ROOM", 10**12)
    assert planned(run_cli, shuffled, *GREEDY, *small)[0] == "input"
    assert asked == [None] * 3 + ["input"]


def test_where_another_order_gains_nothing_the_plan_is_that_of_the_inputs(run_cli: Cli, tmp_path: Path) -> None:
    rows = write_input(tmp_path / "rows.jsonl", documents(10))
    words = ("plan", "model", "--input", rows, "--scheduler", "slurm", "--nodes", "1", "--gpu", "h100-80", "--json")
    free, asked = (json.loads(run_cli(*words, *GREEDY, *more).out) for more in ((), ("--order", "input")))
    assert free["order"] == asked["order"] == "input"
    assert (free["concurrency"], free["cost"]) == (asked["concurrency"], asked["cost"])


def test_the_room_counts_what_a_template_adds(run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_input(tmp_path / "rows.jsonl", [{"word": f"{number}"} for number in range(50)])
    sizes: list[int] = []

    def has_room(_: Path, size: int) -> bool:
        sizes.append(size)
        return False

    monkeypatch.setattr(sorted_copy, "has_room", has_room)
    shared = "a document that all rows share " * 100
    words = (*GREEDY, "--prompt-template", shared + "{{ word }}")
    outcome = run_cli(
        "plan", "model", "--input", rows, "--scheduler", "slurm", "--nodes", "1", "--order", "prefix", *words
    )
    assert outcome.code == 2 and "make room" in outcome.err
    assert sizes[0] >= 50 * len(shared) > 100 * rows.stat().st_size


def test_a_full_disk_of_temporary_files(run_cli: Cli, shuffled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_hpc.rows.prefix_scan import PrefixScan

    monkeypatch.setattr(PrefixScan, "_measured", None)
    assert planned(run_cli, shuffled, *GREEDY) == ("input", [])
    outcome = run_cli("plan", "model", "--input", shuffled, "--scheduler", "slurm", "--nodes", "1", "--order", "prefix")
    assert outcome.code == 2 and "TMPDIR" in outcome.err


def test_a_large_input_is_not_copied_for_little(run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HPC_REFERENCE_OVER", "0")
    rows = write_input(tmp_path / "rows.jsonl", [*documents(20), *documents(1200, 1)])
    words = (*GREEDY, "--engine", "kv_cache_memory_bytes=10000000")
    order, (reason,) = planned(run_cli, rows, *words)
    assert order == "input" and "and copy" in reason
    assert planned(run_cli, rows, *words, "--order", "prefix")[0] == "prefix"
