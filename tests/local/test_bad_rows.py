"""A bad row is its own problem: thirty of them between good ones, in one engine start, and over TP=2 in a real job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine_run import Outcome, run
from tests.real_jobs import ENGINE, GREEDY, PATIENCE_S, submit_tiny
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.xdist_group("bad rows")]  # all of one start


def sampled(**sampling: Any) -> Row:
    return {"prompt": "def f(x):", "sampling": sampling}


def said(*messages: Any) -> Row:
    return {"messages": list(messages)}


def structured(**constraint: Any) -> Row:
    return sampled(structured_outputs=constraint)


# What is wrong -> the row, and a word of its message.
BAD: dict[str, tuple[Row, str]] = {
    "too long": ({"prompt": "word " * 2000}, "maximum"),
    "too many tokens": ({"prompt": [5] * 300}, "length"),
    "no room for an answer": ({"prompt": [5] * 256}, "length"),
    "empty prompt": ({"prompt": ""}, "empty"),
    "no tokens": ({"prompt": []}, "empty"),
    "token above the vocabulary": ({"prompt": [10**6]}, "vocabulary"),
    "token below the vocabulary": ({"prompt": [-5]}, ""),
    "unknown role": (said({"role": "robot", "content": "hello"}), "unknown role"),
    "image for a text model": (
        said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        "",
    ),
    "negative temperature": (sampled(temperature=-1), "temperature"),
    "unknown name": (sampled(temprature=1), "temprature"),
    "private name": (sampled(_all_stop_token_ids=[1]), "_all_stop_token_ids"),
    "wrong type": (sampled(max_tokens="many"), "max_tokens"),
    "no tokens wanted": (sampled(max_tokens=0), "max_tokens"),
    "top_p above 1": (sampled(top_p=1.5), "top_p"),
    "huge n": (sampled(n=10**7, temperature=1), "n must be"),
    "n of a greedy row": (sampled(n=3, temperature=0), "n must be 1"),
    "empty stop": (sampled(stop=""), "stop"),
    "empty stop in a list": (sampled(stop=["a", ""]), "stop"),
    "stop token that is none": (sampled(stop_token_ids=["x"]), "stop_token_ids"),
    "too many logprobs": (sampled(logprobs=500), "logprobs"),
    "bias of a token that is none": (sampled(logit_bias={"100000": 1}), "vocab"),
    "min_tokens above max_tokens": (sampled(min_tokens=9, max_tokens=3), "min_tokens"),
    "truncation to nothing": (sampled(truncate_prompt_tokens=0), "truncate_prompt_tokens"),
    "adapter of a job without": ({"prompt": "a", "lora": "mine"}, "no adapter"),
    "embedding of a generating model": ({"prompt": "a", "task": "embed"}, "embed"),
    "grammar that does not parse": (structured(grammar='root ::= "a" | '), "compile"),
    "regex that does not compile": (structured(regex="(["), ""),
    "regex of another back-end": (structured(regex="(?=a)a"), ""),
    "schema of another back-end": (structured(json={"type": "integer", "multipleOf": 3}), '"backend":"guidance"'),
    "schema of an unknown type": (structured(json={"type": "nonsense"}), ""),
    "schema that is no JSON": (structured(json="{"), "JSON"),
    "no choice": (structured(choice=[]), "empty"),
    "unknown constraint": (structured(jsn={}), "jsn"),
    "two constraints": (structured(regex="a", choice=["b"]), "one kind"),
    "no constraint": (structured(), "none are specified"),
    "constraint of a wrong type": (sampled(structured_outputs="json"), "object"),
    "unknown response_format": (sampled(response_format={"type": "xml"}), "xml"),
}
GOOD: Row = {"prompt": "def good(row):"}


@pytest.fixture(scope="module")
def outcome(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    rows = [row for bad, _ in BAD.values() for row in (GOOD, bad)]
    plain = {"call": "generate", "prompt": GOOD["prompt"]}
    work = tmp_path_factory.mktemp("bad")
    return run(work, model=str(tiny), engine=ENGINE, sampling=GREEDY, rows=[*rows, GOOD], reference=[plain])


@pytest.mark.parametrize("name", BAD)
def test_bad_row(outcome: Outcome, name: str) -> None:
    index = 2 * list(BAD).index(name) + 1
    row = outcome.rows[index]
    assert row.keys() - {"lora", "task"} == {"index", "id", "error"}, row
    assert row["index"] == index
    assert row["error"]["type"].isidentifier()
    assert BAD[name][1] in row["error"]["message"]


def test_the_neighbours_of_bad_rows_are_answered(outcome: Outcome) -> None:
    assert {row["text"] for row in outcome.rows[::2]} == {outcome.reference[0]["text"]}


def test_bad_rows_over_two_ranks(tiny: Path, tmp_path: Path) -> None:
    """Both ranks must refuse the same rows, or the replica hangs."""
    chosen = {"prompt": "def f(x):", "sampling": {"structured_outputs": {"choice": ["yes", "no"]}}}
    rows = [row for bad, _ in BAD.values() for row in (GOOD, bad)]
    job = submit_tiny(tiny, tmp_path, [*rows, chosen], tp=2)
    status = job.wait(PATIENCE_S)
    assert (status.state, status.rows.done, status.rows.failed) == ("PARTIAL", len(BAD) + 1, len(BAD)), job.logs()
    found = list(job.results())
    assert len({row["text"] for row in found[:-1:2]}) == 1
    assert found[-1]["text"] in ("yes", "no")
    assert len({rank.digest for rank in job.ranks()}) == 1
