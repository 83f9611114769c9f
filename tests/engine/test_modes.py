"""Engines of another kind: embeddings, rows with own seeds, another back-end for grammars, a real chat model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_run import Outcome, run
from tests.real_jobs import ENGINE, GREEDY, PATIENCE_S, submit_tiny
from vllm_hpc.planner.models.find import ensure_model, find_model
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.vllm, pytest.mark.full]

TEXT = "def function_1(folder):"
CHAT = [{"role": "user", "content": "hello"}]
EMBEDDING_LINE = {"custom_id": "e", "url": "/v1/embeddings", "model": "tiny"}
# What xgrammar refuses, and guidance does not.
# Bounded, for a random model may write digits without end.
MULTIPLE = {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 99}
MULTIPLES = {"type": "array", "items": MULTIPLE, "minItems": 1, "maxItems": 2}


@pytest.fixture(scope="module")
def pooled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    rows: list[Row] = [
        {"prompt": TEXT},
        {"prompt": [5, 6, 7], "task": "embed"},
        {"messages": CHAT},
        {"prompt": TEXT, "batch": EMBEDDING_LINE},
        {"prompt": TEXT, "task": "generate"},
        {"messages": CHAT, "batch": {**EMBEDDING_LINE, "url": "/v1/chat/completions"}},
        {"prompt": TEXT, "sampling": {"temperature": 0}},
        {"prompt": TEXT, "sampling": {"dimensions": 5}},
        {"prompt": ""},
        {"prompt": [10**6]},
        {"prompt": [5] * 400, "sampling": {"truncate_prompt_tokens": 3}},
    ]
    return run(
        tmp_path_factory.mktemp("pooled"),
        model=str(tiny),
        engine={**ENGINE, "runner": "pooling"},
        sampling=GREEDY,
        rows=rows,
        reference=[{"call": "embed", "prompt": TEXT}, {"call": "embed", "prompt": {"prompt_token_ids": [5, 6, 7]}}],
    )


def test_embeddings_are_those_of_plain_vllm(pooled: Outcome) -> None:
    assert pooled.rows[0]["embedding"] == pytest.approx(pooled.reference[0]["embedding"], abs=1e-5)
    assert pooled.rows[1]["embedding"] == pytest.approx(pooled.reference[1]["embedding"], abs=1e-5)
    assert pooled.prompts["0"] == pooled.reference[0]["prompt"]
    assert len(pooled.rows[2]["embedding"]) == 256
    assert (pooled.rows[1]["prompt_tokens"], pooled.rows[1]["completion_tokens"]) == (3, 0)
    assert pooled.digests["1"] == [[5, 6, 7]]
    assert pooled.prompts["10"] == [5, 5, 5]


def test_an_embedding_in_a_batch_is_openais(pooled: Outcome) -> None:
    from openai.types import CreateEmbeddingResponse

    body = CreateEmbeddingResponse.model_validate(pooled.rows[3]["line"]["response"]["body"])
    assert body.data[0].embedding == pytest.approx(pooled.rows[0]["embedding"], abs=1e-5)
    assert body.usage.total_tokens == pooled.rows[3]["prompt_tokens"]


def test_what_a_pooling_model_cannot_do_is_an_error_row(pooled: Outcome) -> None:
    messages = [row["error"]["message"] for row in pooled.rows[4:10]]
    for message, word in zip(messages, ("generate", "generate", "temperature", "", "empty", "vocabulary"), strict=True):
        assert word in message


def test_embeddings_over_the_whole_way(tiny: Path, tmp_path: Path) -> None:
    engine = {**ENGINE, "runner": "pooling"}
    job = submit_tiny(tiny, tmp_path, [{"prompt": TEXT}, {"prompt": ""}], tp=2, engine=engine)
    assert job.wait(PATIENCE_S).state == "PARTIAL", job.logs()
    first, second = job.results()
    assert len(first["embedding"]) == 256
    assert second["error"]
    assert len({rank.digest for rank in job.ranks()}) == 1


def test_seeds_of_rows_need_no_order_and_no_batch(tiny: Path, tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": f"def function_{number}(", "id": f"row {number}"} for number in range(6)]
    rows.append({"prompt": TEXT, "id": "own", "sampling": {"seed": 5}})
    rows.append({"prompt": TEXT, "id": "several", "sampling": {"n": 2}})
    found = [
        run(
            tmp_path,
            model=str(tiny),
            engine={**ENGINE, "max_num_seqs": 8},
            sampling={"temperature": 1.0, "max_tokens": 12},
            request={"seed_rows": True, "seed": 3},
            rows=rows,
            in_flight=most,
            orders=[[5, 4, 7, 3, 6, 2, 1, 0]],
        )
        for most in (8, 1)
    ]
    texts = [_texts(rows_out) for outcome in found for rows_out in (outcome.rows, *outcome.again)]
    assert all(one == texts[0] for one in texts)
    assert len(set(texts[0].values())) == len(rows)


def _texts(rows: list[Row]) -> dict[str, str]:
    return {row["id"]: json.dumps(row.get("text", row.get("outputs"))) for row in rows}


def test_a_job_may_choose_the_back_end_of_its_grammars(tiny: Path, tmp_path: Path) -> None:
    """By its own constraint, for all rows: an engine has but one."""
    constraint = {"structured_outputs": {"json": MULTIPLES, "disable_any_whitespace": True}}
    rows: list[Row] = [
        {"prompt": TEXT, "sampling": {"structured_outputs": {"choice": ["yes", "no"]}}},
        {"prompt": TEXT},
    ]
    outcome = run(tmp_path, model=str(tiny), engine=ENGINE, sampling={**GREEDY, **constraint}, rows=rows)
    assert outcome.rows[0]["text"] in ("yes", "no")
    assert all(number % 3 == 0 for number in json.loads(outcome.rows[1]["text"]))


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The demo model, converted now: not one that an earlier version has left in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = find_model("demo")
    ensure_model(model)
    yield model.path
    shutil.rmtree(tmp_path / "cache")  # half a gigabyte


def test_chats_with_a_real_model(demo: str, tmp_path: Path) -> None:
    chats = [
        [{"role": "user", "content": "What is the capital of France?"}],
        [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "2 + 2?"}],
    ]
    outcome = run(
        tmp_path,
        model=demo,
        engine={**ENGINE, "max_model_len": 512},
        sampling={"temperature": 0, "max_tokens": 6},
        rows=[{"messages": chat} for chat in chats] + [{"prompt": "The capital of France is"}],
        reference=[
            *({"call": "chat", "prompt": chat} for chat in chats),
            {"call": "generate", "prompt": "The capital of France is"},
        ],
    )
    assert [row["text"] for row in outcome.rows] == [plain["text"] for plain in outcome.reference]
    assert list(outcome.prompts.values()) == [plain["prompt"] for plain in outcome.reference]
