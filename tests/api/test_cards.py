"""What a notebook shows: HTML of its own that no text of others can break, whatever a record says."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crafted import make_job
from vllm_hpc.api.cards import card
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Attempt, ExitRecord, RankError, RankRecord
from vllm_hpc.jobs.drawn_lists import Jobs, Ranks, Statuses
from vllm_hpc.jobs.find import list_jobs, list_statuses
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.replica_status import ReplicaStatus
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.jobs.summary import RankEnd, Summary
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Memory, Plan
from vllm_hpc.spec.script import Script

pytestmark = pytest.mark.notebooks

IMAGE = "<img src=x onerror=1>"
HOSTILE = (
    IMAGE, "</bdi></div><script>alert(1)</script>", "\" onload='x", "\x1b]52;c;cm0=\x07", "a\u202egnp.exe", "{{7*7}}",
    "\udcff", "\x00", "&lt;b&gt;", "x" * 100_000, "مرحبا", "🦙" * 50, "", "\n\r\u2028", "]]>", "<!--", "</style>",
)  # fmt: skip
MEMORY = Memory(weights_gib=131.4, per_gpu_gib=18.6, kv_gib_per_gpu=54.2, gpu_gib=79.2, weights_gib_per_gpu=16.5)
_VOID = {"br", "rect"}


class Page(HTMLParser):
    """A card as a browser reads it: what is open, all elements, and the text that is shown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown += data

    def names(self) -> set[str]:
        return {name for name, _ in self.elements}


def read(value: Any) -> Page:
    """Draw a value and read the card, which must need nothing from outside and hold nothing that others wrote."""
    html = card(value)
    html.encode()  # no lone surrogate
    page = Page(html)
    assert page.names().isdisjoint({"img", "script", "link", "iframe", "object", "base", "form"})
    for name, attributes in page.elements:
        assert not attributes.keys() & {"src", "href", "srcset", "onload", "onerror", "xlink:href"}
        assert "onclick" not in attributes or name == "button"
    assert not re.search(r"https?:|url\(|@import", html)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", html)
    return page


def a_status(**given: Any) -> Status:
    known = {
        "job": "/runs/first", "job_id": "77", "scheduler": "slurm", "state": "RUNNING", "reason": "", "model": "model",
        "rows": Rows(300, 122, 3), "created_at": 1e9, "attempts": 1,
    }  # fmt: skip
    return Status(**{**known, **given})


def a_rank(rank: int, outcome: str = "ok", error: RankError | None = None, host: str = "node1") -> RankRecord:
    return RankRecord(
        rank=rank, replica=0, attempt=1, host=host, pid=1, device="cuda:0", outcome=outcome, updated_at=1.0, error=error
    )


def a_summary(**given: Any) -> Summary:
    known = {
        "job": "/runs/first", "uuid": "", "rows": {"total": 3, "done": 2, "failed": 1, "missing": 0}, "outputs": "o",
        "prompt_tokens": 5, "completion_tokens": 7, "seconds": 300.0, "tokens_per_s": 3.5, "timings": {"load": 9.0},
    }  # fmt: skip
    return Summary(**{**known, **given})


def a_plan(layout: Layout, **given: Any) -> Plan:
    return Plan(layout=layout, engine={"max_model_len": 8192}, **given)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_of_others_is_only_text(text: str) -> None:
    error = RankError(text, text, text)
    values: list[Any] = [
        a_status(job=f"/runs/{text}", job_id=text, reason=text, model=text, program=text),
        a_status(job=text, scheduler="", state="UNKNOWN", reason=text),
        a_plan(Layout(1, 1, 1, 1, 1, 1), misfit=text, missing=text, unready=text, reasons=(text,), runners_up=(text,)),
        Plan(layout=Layout(1, 1, 1, 1, 1, 1), engine={text: text, "e": {text: [text]}}),
        Script(text, text),
        a_summary(job=text, reason=text, state=text, outputs=text, ignored={text: 1}, timings={text: 5.0}),
        a_summary(outputs="", ranks=[RankEnd(rank=0, host=text, attempt=1, outcome=text, error=text)]),
        Ranks([a_rank(0, text, error, text)]),
        Statuses([a_status(job=text, job_id=text, model=text, reason=text)]),
    ]
    for value in values:
        read(value)
        assert len(repr(value)) < 600 and repr(value).replace("\n", "").isprintable()
    if text == IMAGE:
        assert all(IMAGE in read(value).shown for value in values)


@pytest.mark.parametrize("odd", [nan, inf, -inf, 1e308, -1e308, -1.0, 0.0])
def test_numbers_that_are_none(odd: float) -> None:
    replica = ReplicaStatus(replica=0, attempt=1, tokens_per_s=odd, kv=odd, watts=odd, running=-1, most_running=0)
    status = a_status(eta_s=odd, tokens_per_s=odd, created_at=odd, ends_at=odd, tokens=-1, replicas=(replica,) * 3)
    memory = Memory(weights_gib=odd, per_gpu_gib=odd, kv_gib_per_gpu=odd, gpu_gib=odd, weights_gib_per_gpu=odd)
    for value in (
        status, Statuses([status]), a_plan(Layout(1, 1, 1, 1, 1, 1), memory=memory, concurrency=odd, kv_tokens=-1),
        a_summary(seconds=odd, tokens_per_s=odd, occupancy=odd, idle=odd, timings={"load": odd}),
        Ranks([msgspec.structs.replace(a_rank(0), device_gib=odd)]),
    ):  # fmt: skip
        read(value)
        assert len(repr(value)) < 300


@pytest.mark.parametrize("rows", [Rows(0), Rows(3, 5, 5), Rows(1_000_000_000, 1, 0), Rows(3, -1, 0)])
def test_counts_that_do_not_add_up(rows: Rows) -> None:
    page = read(a_status(rows=rows))
    widths = [float(style[6:-1]) for _, a in page.elements if (style := a.get("style") or "").startswith("width:")]
    assert all(0 <= width <= 100 for width in widths)


def test_a_running_job_shows_where_it_is() -> None:
    now = time.time()
    soon = a_status(tokens_per_s=48.23, eta_s=107, ends_at=now + 7230, reason="generating on 1 of 1 replica")
    shown = read(soon).shown
    for said in ("first", "RUNNING", "122 of 300 rows done, 3 with errors (41 %)", "48.2 tokens/s", "ETA 107 s",
                 "walltime ends in 2 h", "slurm 77", "generating on 1 of 1 replica", "/runs/first"):  # fmt: skip
        assert said in shown
    assert repr(soon) == "Status first: RUNNING 125/300 (3 with errors), ETA 107 s"
    late = read(a_status(eta_s=9000, ends_at=now + 3600)).shown
    assert "the walltime ends before that, in 1 h" in late


def test_64_replicas_stay_readable() -> None:
    replicas = tuple(ReplicaStatus(replica=n, attempt=1, tokens_per_s=40 + n % 17, running=9) for n in range(64))
    page = read(a_status(replicas=replicas))
    assert "64 replicas: 40.0 to 56.0 tokens/s each, median 47.5, slowest: replica 0" in page.shown
    assert "… 40 more replicas …" in page.shown
    assert "watts" not in page.shown  # nothing is known of them


@pytest.mark.parametrize(
    ("layout", "cells", "said"),
    [
        (Layout(2, 8, 8, 8, 2, 1), 16, "T7 P1"),
        (Layout(8, 8, 8, 1, 1, 64), 64, "R63"),
        (Layout(128, 4, 4, 8, 1, 64), 64, "… 112 more nodes: replicas 7 to 63 …"),
        (Layout(1, 72, 72, 8, 1, 9), 15, "+57"),
        (Layout(1, 4, 4, 2, 2, 100, is_array=True), 64, "task 99"),
        (Layout(3, 4, 4, 4, 3, 1), 12, "T3 P2"),
        (Layout(100_000, 2, 2, 200_000, 1, 1), 64, "99,968 more nodes: replica 0"),
    ],
)
def test_nodes_and_gpus_are_a_picture(layout: Layout, cells: int, said: str) -> None:
    page = read(a_plan(layout))
    boxes = [attributes["class"] or "" for name, attributes in page.elements if name == "rect"]
    assert sum("vh-cell" in look for look in boxes) == cells
    assert said in page.shown
    assert all(attributes.get("aria-label") for name, attributes in page.elements if name == "svg")


def test_a_plan_says_whether_it_fits() -> None:
    layout = Layout(2, 8, 8, 8, 2, 1)
    fits = a_plan(layout, fits=True, memory=MEMORY, kv_tokens=1_234_567, concurrency=150.7, reasons=("because",))
    shown = read(fits).shown
    for said in ("FITS", "weights 16.5 GiB", "reserve 2.1 GiB", "KV cache 54.2 GiB", "free 6.4 GiB",
                 "1,234,567 tokens", "151 rows at once", "because"):  # fmt: skip
        assert said in shown
    assert repr(fits) == "Plan: 2 nodes x 8 GPUs, TP 8 PP 2, 1 replica, fits"
    small = Memory(per_gpu_gib=133.5, kv_gib_per_gpu=0, gpu_gib=79.2, weights_gib_per_gpu=131.4)
    too_big = read(a_plan(layout, fits=False, misfit="needs two", memory=small)).shown
    assert "DOES NOT FIT" in too_big and "The model needs two" in too_big and "missing 54.3 GiB" in too_big
    unknown = a_plan(layout)
    assert "FIT UNKNOWN" in read(unknown).shown and "fit unknown" in repr(unknown)
    earlier = read(a_plan(layout, memory=msgspec.structs.replace(MEMORY, weights_gib_per_gpu=None)))
    assert "weights and reserve 18.6 GiB" in earlier.shown


def test_a_script_is_shown_as_it_is_and_can_be_copied() -> None:
    text = "#!/bin/bash\n#SBATCH --nodes=2\n\nif true; then\n\techo \"$HOME <&>\"  # said\nfi\ncat <<'E'\n  a\nE\n"
    page = Page(card(Script(text, "script.sbatch")))
    code = page.shown[page.shown.index("#!/bin/bash") :]
    assert code == text.removesuffix("\n")  # what is copied: line numbers are not in the text
    assert sum(attributes.get("class") == "vh-l" for _, attributes in page.elements) == 9
    assert [attributes["title"] for name, attributes in page.elements if name == "button"] == ["Copy the script"]
    assert {"vh-s", "vh-k", "vh-b", "vh-c"} <= {attributes.get("class") for _, attributes in page.elements}
    assert str(Script(text, "s")) == text and repr(Script(text, "s")) == "Script s: 9 lines, print() shows them"
    long = Script("echo $x\n" * 1_000_000, "s")
    assert "7,900,000 more characters are not shown" in read(long).shown


def test_a_failed_job_shows_its_first_error(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "first", 3)
    write_json(folder.attempt(1), Attempt(attempt=1, job_id="77-1000", host="node1", started_at=1000.0))
    error = RankError("ValueError", IMAGE, "Traceback:\n  the line")
    write_json(folder.rank_record(0), a_rank(0, "error", error))
    write_json(folder.exit_record(1), ExitRecord(attempt=1, exit_code=1, cause="exit", ended_at=1100.0))
    page = read(Job(folder.path))
    assert "FAILED" in page.shown and f"rank 0 on node1: ValueError: {IMAGE}" in page.shown
    assert "Traceback:\n  the line" in page.shown
    assert repr(Job(folder.path)) == "Job first: FAILED 0/3"
    assert f"rank 0 on node1, cuda:0: error: ValueError: {IMAGE}" in repr(Job(folder.path).ranks())
    assert "ValueError" in read(Job(folder.path).ranks()).shown


def test_a_job_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    gone = Job(tmp_path / "gone")
    assert repr(gone) == "Job gone: UNKNOWN, its folder has gone: it was moved or removed"
    assert "its folder has gone" in read(gone).shown
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "job.json").write_text("{")
    assert "damaged" in read(Job(damaged)).shown and "damaged" in repr(Job(damaged))
    for path in ("a\0b", "x" * 5000, "/dev/null/x", "\udcff"):
        read(Job(path))
        repr(Job(path)).encode()


def test_jobs_are_a_table_with_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        folder = make_job(tmp_path / name, 3)
        record = folder.job()
        write_json(folder.job_json, msgspec.structs.replace(record, created_at=1000.0 + len(list(tmp_path.iterdir()))))
    jobs = list_jobs(str(tmp_path))
    assert isinstance(jobs, Jobs) and isinstance(jobs, list) and len(jobs) == 2
    shown = read(jobs).shown
    assert 0 < shown.index("two") < shown.index("one")
    assert "KiB" in shown and "0/3" in shown
    assert repr(jobs).startswith("2 jobs:\n  one: ") and repr(list_statuses(str(tmp_path))).startswith("2 jobs:")
    assert read(Jobs()).shown == "Jobs0 jobs" and repr(Jobs()) == "0 jobs"
    many = Statuses(a_status(job=f"/runs/job-{n}", created_at=1000.0 + n) for n in range(1000))
    assert "and 976 older ones" in read(many).shown and len(repr(many).splitlines()) == 22


def test_of_many_ranks_those_that_failed_are_shown() -> None:
    ranks = Ranks([a_rank(n) for n in range(500)])
    ranks[250] = a_rank(250, "error", RankError("ValueError", "the one", ""))
    shown = read(ranks).shown
    assert "the one" in shown and "… 476 more ranks …" in shown and "499 ok" in shown


def test_a_prepared_job_shows_plan_and_script(model: Path, desk: Path) -> None:
    (desk / "in.jsonl").write_text('{"prompt": "a"}\n')
    prepared = prepare(str(model), input="in.jsonl", rehearse=True, scheduler="local", name="first")
    assert repr(prepared).startswith("Prepared first: 1 node x 1 GPU, TP 1 PP 1, 1 replica, ")
    page = read(prepared)
    assert "NOT SUBMITTED" in page.shown and "#!/usr/bin/env bash" in page.shown and "svg" in page.names()


def test_what_a_notebook_asks_for() -> None:
    status = a_status()
    both = status._repr_mimebundle_()
    assert both["text/plain"] == repr(status) and both["text/html"].startswith('<div class="vh-card"><style>')
    assert status._repr_mimebundle_(include={"text/plain"}).keys() == {"text/plain"}
    assert status._repr_mimebundle_(exclude={"text/plain"}).keys() == {"text/html"}
    with pytest.raises(TypeError, match="int has no card"):
        card(3)


def test_a_summary_shows_rows_and_times() -> None:
    shown = read(a_summary(state="PARTIAL", attempts=2, ignored={"torn": 2}, timings={"queue": 60.0, "load": 9})).shown
    for said in ("PARTIAL", "2 of 3 rows done, 1 with errors", "queue 60 s", "load 9 s", "5 min from submission",
                 "2 lines of the shards left out: torn"):  # fmt: skip
        assert said in shown
    assert repr(a_summary()) == "Summary first: UNKNOWN 2/3, 1 with errors, 7 output tokens, 5 min"


def test_a_card_says_whether_the_page_is_dark() -> None:
    html = card(a_status())
    for page in ("prefers-color-scheme:dark", '[data-jp-theme-light="false"]', ".vscode-dark"):
        assert page in html
