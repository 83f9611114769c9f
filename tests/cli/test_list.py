"""list: what one must copy stays whole, however narrow the terminal; and which jobs are listed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from tests.cli.named_jobs import named_job
from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc.cli.print_list import ListedJob, table
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.disk_use import DiskUse, disk_use
from vllm_hpc.jobs.known_jobs import remember
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.words import age, in_bytes

pytestmark = pytest.mark.notebooks

ID = "123456-1796078104"


def listed(name: str, **more: object) -> ListedJob:
    plain = Status(
        job=f"/runs/{name}", job_id=ID, scheduler="local", state="RUNNING", reason="", rows=Rows(1000, 125, 3),
        tokens_per_s=4321.0, created_at=time.time() - 7300, model="/models/meta-llama/Llama-3.1-70B-Instruct",
    )  # fmt: skip
    return ListedJob(name, msgspec.structs.replace(plain, **more))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 240])
@pytest.mark.parametrize("name", ["a", "first", "n" * 30, "n" * 36, "n" * 37, "n" * 100, "é中文" * 20, "a b 'c'"])
def test_the_name_and_the_id_are_whole_at_any_width(width: int, name: str) -> None:
    lines = [line.plain for line in table([listed(name), listed("other")], width)]
    text = "\n".join(lines)
    assert name in text and text.count(ID) == 2 and text.count("RUNNING") == 2
    if width >= 80:
        assert [line for line in lines if len(line) > width and line != name] == []


def test_all_columns_fit_on_a_wide_terminal_and_the_least_needed_go_first() -> None:
    wide, usual, narrow = (table([listed("first")], width)[0].plain.split() for width in (120, 80, 60))
    assert wide == ["job", "age", "model", "state", "rows", "tokens/s", "id"]
    assert usual == wide
    assert narrow == ["job", "age", "state", "rows", "id"]
    assert "Llama-3.1-70…" in table([listed("a-rather-long-name")], 96)[1].plain


def test_what_a_name_has_does_not_reach_the_terminal() -> None:
    (_, line) = table([listed("a\x1b[31m\nb", job_id="7\x9b7")], 80)
    assert line.plain.isprintable() and "a\ufffd[31m\ufffdb" in line.plain


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (7300, "2h"), (9e6, "104d")]
)
def test_an_age_is_one_unit(seconds: float, words: str) -> None:
    assert age(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")])
def test_a_size_is_short(count: int, words: str) -> None:
    assert in_bytes(count) == words


def names(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[1:]]


def test_the_newest_is_first_and_json_as_it_was(desk: Path, run_cli: Cli) -> None:
    for number in range(4):
        named_job(desk / "runs" / f"job-{number}", rows=[] if number % 2 else None, created_at=1000.0 + number)
    assert names(run_cli("list").out) == ["job-3", "job-2", "job-1", "job-0"]
    assert names(run_cli("list", "-n", "2").out) == ["job-3", "job-2"]
    assert names(run_cli("list", "--state", "completed").out) == ["job-2", "job-0"]
    assert names(run_cli("list", "--state", "COMPLETED, FAILED", "--last", "1").out) == ["job-3"]
    assert [Path(job["job"]).name for job in json.loads(run_cli("list", "--json").out)] == [
        "job-0", "job-1", "job-2", "job-3",
    ]  # fmt: skip
    none = run_cli("list", "--state", "CANCELLED")
    assert (none.code, none.out, none.err) == (0, "", "No jobs in state CANCELLED under 'runs'.\n")


@pytest.mark.parametrize(("words", "code"), [("--state=gone", 2), ("--state=", 2), ("--last=0", 2), ("--last=x", 2)])
def test_what_cannot_be_listed_is_refused(desk: Path, run_cli: Cli, words: str, code: int) -> None:
    ran = run_cli("list", words)
    assert (ran.code, ran.err.count("\n")) == (code, 1)


def test_all_lists_the_users_jobs_elsewhere_by_what_finds_them(desk: Path, run_cli: Cli) -> None:
    named_job(desk / "runs" / "here")
    for folder in (named_job(desk / "other" / "there"), named_job(desk / "third" / "here")):
        remember(folder)
    remember(make_job(desk / "gone" / "away"))
    (desk / "gone").rename(desk / "hidden")
    assert names(run_cli("list").out) == ["here"]
    found = names(run_cli("list", "--all").out)
    assert sorted(found) == [str(desk / "third" / "here"), "here", "there"]
    for name in found:
        assert run_cli("status", name).code == 0


def test_the_size_of_a_folder_is_without_what_links_lead_to(desk: Path, run_cli: Cli) -> None:
    folder = named_job(desk / "runs" / "one").path
    (desk / "large").write_bytes(bytes(1 << 20))
    before = disk_use(folder)
    (folder / "link").symlink_to(desk / "large")
    (folder / "up").symlink_to("..")
    (folder / "new").write_bytes(bytes(1000))
    after = disk_use(folder)
    assert after.files == before.files + 3
    assert 1000 <= after.bytes - before.bytes < 5000
    assert disk_use(desk / "nowhere") == DiskUse(0, 1)
    (job,) = json.loads(run_cli("list", "--size", "--json").out)
    assert DiskUse(job["bytes"], job["files"]) == after
    assert str(after.files) in run_cli("list", "--size").out.split()


def test_a_folder_that_is_not_utf8_hides_no_other_job(desk: Path, run_cli: Cli) -> None:
    odd = desk / "runs" / os.fsdecode(b"odd\xff")
    named_job(desk / "runs" / "odd").path.rename(odd)
    remember(JobFolder(odd))
    named_job(desk / "runs" / "plain")
    assert len(names(run_cli("list").out)) == 2
    assert {job["job"] for job in json.loads(run_cli("list", "--json").out)} == {str(odd), str(desk / "runs" / "plain")}
    ran = run_cli("clean", "--older", "1d")
    assert (ran.code, ran.err, ran.out.count(": freed")) == (0, "", 3)  # and their sum


def test_a_job_without_a_time_or_an_id_is_listed(desk: Path, run_cli: Cli) -> None:
    folder = named_job(desk / "runs" / "one")
    folder.submitted.unlink()
    folder.attempt(1).unlink()
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), created_at=-1e300))
    assert names(run_cli("list").out) == ["one"]
