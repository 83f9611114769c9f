"""The page: everything on it, nothing of it a command to the browser, and `vllm-hpc report`."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Cli
from tests.crafted import SUBMITTED_AT, error, make_job, rank, result, start, write_lines
from tests.report.crafted_runs import finish, make_run
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.job import Job
from vllm_hpc.report.charts import Curve
from vllm_hpc.report.drawings import together_of
from vllm_hpc.report.gather import gather
from vllm_hpc.report.page import render
from vllm_hpc.report.write import write_report
from vllm_hpc.spec.errors import JobNotFoundError, RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.program import Program

pytestmark = pytest.mark.notebooks
EVIL = "<script>alert(1)</script>\" onload='x' \x1b]52;c;\x07 \u202e {{ 7*7 }}"


class Page(HTMLParser):
    """What the browser would make of it: tags with their attributes, text, and whether every tag is closed."""

    VOID = frozenset({"meta", "link", "hr", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(folder: JobFolder, other: JobFolder | None = None) -> Page:
    path, _ = write_report(folder, compare=other)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_has_every_section(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "job"))
    text = page.text()
    for words in ("job PARTIAL", "36 of 40", "ValueError", "the prompt has 9005 tokens", "Throughput", "Occupancy"):
        assert words in text, words
    for words in ("Prompt tokens", "length", "TP 2 × PP 1 × DP 2", "vllm", "0.32.0", "script.sh", "warm-up", "kWh"):
        assert words in text, words
    tips = [attributes["data-tip"] for _, attributes in page.tags if "data-tip" in attributes]
    assert any(tip and "generate\n16 min 40 s, from 3 min 20 s to 20 min" in tip for tip in tips)
    assert any(tip and tip.startswith("rank 3: replica 1, TP rank 1") for tip in tips)


def test_it_loads_nothing_and_runs_one_script(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "job"))
    assert page.count("script") == 1
    loads = ("src", "srcset", "xlink:href", "action", "poster", "data", "background", "style")
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name in loads or name.startswith("on")], tag
        if "href" in attributes:
            assert str(attributes["href"]).startswith(("#", "data:")), attributes
    (policy,) = [one["content"] for _, one in page.tags if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    html = (tmp_path / "job" / "report.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)


def test_no_text_of_a_user_is_markup(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job <b>&", rows=1)
    start(folder)
    rank(folder, 0, "error", error=error(EVIL), device_name=EVIL, versions={EVIL: EVIL})
    finish(folder, 1, time.time(), exit_code=1)
    write_lines(folder.shard(0, 1), [{"index": 0, "id": "0", "error": {"type": EVIL, "message": EVIL}}])
    (folder.path / "script.sh").write_text(EVIL)
    page = page_of(folder)
    assert page.count("script") == 1
    tiles = sum(one.get("class") == "tile" for _, one in page.tags)
    assert page.count("b") == tiles + 1, "one in each, and one of the first error: none of the job's name"
    assert "<script>alert(1)</script>" in page.text()
    assert "{{ 7*7 }}" in page.text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", (folder.path / "report.html").read_text())


def test_a_job_that_runs_says_what_is_left(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", rows=4)
    facts = gather(folder)
    running = msgspec.structs.replace(
        facts.status, state="RUNNING", tokens=5_000_000, eta_s=90.0, ends_at=facts.found_at + 7300
    )
    text = Page(render(msgspec.structs.replace(facts, status=running))).text()
    for words in ("5,000,000 output tokens", "90 s left", "2 h 1 min until the walltime ends"):
        assert words in text


def test_a_job_without_rows_shows_its_script(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=0)
    record = folder.job()
    program = Program(kind="script", name="train.py", source="/home/u/train.py", drives_engine=True)
    write_json(folder.job_json, msgspec.structs.replace(record, program=program))
    start(folder)
    rank(folder, 0, "ok", 20, timings={"launch": 5.0})
    finish(folder, 1, SUBMITTED_AT + 65)
    text = page_of(folder).text()
    assert "script train.py · local" in text
    assert "Lengths" not in text


def test_two_jobs_beside_each_other(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "first", replicas=2), make_run(tmp_path / "second", replicas=4)
    for folder in (first, second):
        collect(folder)
    page = page_of(first, second)
    text = page.text()
    assert "first and second" in text
    assert "36 of 36 rows with an answer in both are equal." in text
    assert re.search(r"Settings that differ first second dp 2 4", text)
    assert "Output tokens/s 200 400 × 2" in text
    identities = [one["id"] for _, one in page.tags if "id" in one]
    assert len(identities) == len(set(identities))


def test_two_jobs_of_which_one_is_not_collected(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "first"), make_job(tmp_path / "second")
    assert "vllm-hpc diff JOB1 JOB2" in page_of(first, second).text()


def test_64_replicas_with_2000_samples_each(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", replicas=64, samples=2000, rows=64)
    began = time.process_time()
    path, _ = write_report(folder)
    assert time.process_time() - began < 3
    assert path.stat().st_size < 3_000_000


SUMS: dict[str, tuple[list[list[float | None]], list[float | None]]] = {
    "one is seen for the last time before the other": ([[1, 1, 1, None], [1, 1, 1, 1]], [2, 2, 2, None]),
    "one has ended long before": ([[1, None, None, None, None], [1, 1, 1, 1, 1]], [2, 1, 1, 1, 1]),
    "before a gap, too": (
        [[1, 1, 1, None, None, 1, 1, 1], [1, 1, 1, 1, None, 1, 1, 1]], [2, 2, 2, None, None, 2, 2, 2]
    ),
    "both end at once": ([[1, 1, 1], [1, 1, 1]], [2, 2, 2]), "one begins late": ([[None, 1, 1], [1, 1, 1]], [1, 2, 2]),
    "short": ([[1, None], [1, 1]], [2, 1]), "nothing": ([[None], [None]], [None]),
}  # fmt: skip


@pytest.mark.throughput
@pytest.mark.parametrize(("values", "total"), SUMS.values(), ids=SUMS)
def test_a_sum_does_not_drop_where_a_replica_is_seen_no_more(
    values: list[list[float | None]], total: list[float | None]
) -> None:
    edges = [place / len(total) for place in range(len(total) + 1)]
    lines = [Curve("replica", edges, one, "") for one in values]
    assert together_of(lines, "all", is_sum=True).values == total


def test_many_replicas_share_rows(tmp_path: Path) -> None:
    path, _ = write_report(make_run(tmp_path / "job", replicas=160, samples=3, rows=10))
    assert path.stat().st_size < 3_000_000
    assert "a row for each 3 replicas, their mean" in path.read_text()


def test_of_many_nodes_the_first_are_drawn(tmp_path: Path) -> None:
    shape = Layout(nodes=300, gpus_per_node=8, procs_per_node=8, tp=8, pp=1, dp=300)
    text = page_of(make_job(tmp_path / "job", shape=shape)).text()
    assert "300 nodes, 2400 ranks" in text
    assert "The first 128 nodes are drawn." in text


# -- the command -------------------------------------------------------------------------------------------------------
def test_the_command_prints_the_path(desk: Path, run_cli: Cli) -> None:
    make_run(desk / "runs" / "first")
    outcome = run_cli("report", "first")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{desk / 'runs' / 'first' / 'report.html'}\n"
    assert run_cli("report", "first", "-o", "own.html").out == f"{desk / 'own.html'}\n"
    assert (desk / "own.html").read_text().startswith("<!DOCTYPE html>")


def test_json_prints_the_facts_and_writes_nothing(desk: Path, run_cli: Cli) -> None:
    folder = make_run(desk / "runs" / "first")
    make_run(desk / "runs" / "second")
    facts = json.loads(run_cli("report", "first", "--json").out)
    assert facts["energy"]["joules_per_token"] == pytest.approx(5, rel=1e-3)
    assert facts["rows"]["done"] == 36
    both = json.loads(run_cli("report", "first", "--compare", "second", "--json").out)
    assert [one["name"] for one in both["jobs"]] == ["first", "second"]
    assert not (folder.path / "report.html").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing"], "no job 'nothing'"),
        (["first", "--compare", "nothing"], "no job 'nothing'"),
        (["first", "-o", ""], "--output must be a file, not ''"),
        (["first", "-o", "."], "--output must be a file, not the folder '.'"),
        (["first", "-o", "a", "-o", "b"], "-o/--output was given twice"),
    ],
)
def test_what_is_refused(desk: Path, run_cli: Cli, args: list[str], said: str) -> None:
    make_run(desk / "runs" / "first", rows=2)
    outcome = run_cli("report", *args)
    assert outcome.code == 2
    assert outcome.err.startswith(f"Error: {said}")
    assert outcome.err.count("\n") == 1


def test_a_folder_that_is_not_there(desk: Path, run_cli: Cli) -> None:
    make_run(desk / "runs" / "first", rows=2)
    outcome = run_cli("report", "first", "-o", "no/such.html")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: cannot write ")


def test_another_users_job_needs_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "job", rows=2)
    before = sorted(folder.path.rglob("*"))
    monkeypatch.setattr(JobFolder, "is_mine", False)
    with pytest.raises(RequestError, match="is a job of another user: add output=FILE"):
        Job(folder.path).report()
    assert Job(folder.path).report(tmp_path / "own.html") == tmp_path / "own.html"
    assert sorted(folder.path.rglob("*")) == before


def test_a_report_does_not_follow_a_link_in_its_place(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", rows=2)
    other = tmp_path / "precious"
    other.write_text("precious")
    (folder.path / "report.html").symlink_to(other)
    Job(folder.path).report()
    assert other.read_text() == "precious"


def test_the_report_of_a_private_job_is_private(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", rows=2)
    folder.path.chmod(0o700)
    assert not Job(folder.path).report().stat().st_mode & 0o077


def test_rows_that_change_while_they_are_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "job", rows=4)
    write_lines(folder.shard(0, 1), [result(0)], torn='{"index": 2, "id"')
    text = page_of(folder).text()
    assert "missing" in text


def test_a_folder_that_has_gone_is_not_called_another_users(tmp_path: Path) -> None:
    with pytest.raises(JobNotFoundError, match="is not a job folder"):
        write_report(JobFolder(tmp_path / "gone"))
