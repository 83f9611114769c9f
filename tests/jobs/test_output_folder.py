"""collect --output: no results of another job are lost, nor what else has those names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from tests.cli.named_jobs import named_job
from tests.conftest import Cli
from tests.crafted import make_job, read_lines, result, write_lines
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.collect import collect
from vllm_hpc.spec.errors import CollectError, RequestError


def make(path: Path, uuid: str) -> JobFolder:
    folder = make_job(path, rows=1)
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), uuid=uuid))
    write_lines(folder.shard(0, 1), [result(0, path.name)])
    return folder


@pytest.mark.parametrize("uuids", [("a" * 32, "b" * 32), ("a" * 32, ""), ("", "b" * 32), ("", "")])
def test_results_of_another_job_stay(tmp_path: Path, run_cli: Cli, uuids: tuple[str, str]) -> None:
    one, other = make(tmp_path / "one", uuids[0]), make(tmp_path / "other", uuids[1])
    got = tmp_path / "got"
    for _ in range(2):  # the same job goes on
        assert run_cli("collect", one.path, "--output", got).code == 0
    before = {file: file.read_bytes() for file in got.iterdir()}
    ran = run_cli("collect", other.path, "--output", got)
    assert (ran.code, ran.err) == (2, f"Error: --output '{got}' has the results of one: name another folder\n")
    assert {file: file.read_bytes() for file in got.iterdir()} == before
    summary = json.loads((got / "summary.json").read_text())
    assert (summary["job"], summary["uuid"]) == (str(one.path), uuids[0])


def test_a_job_that_was_moved_is_the_same(tmp_path: Path) -> None:
    one = make(tmp_path / "one", "a" * 32)
    collect(one, tmp_path / "got")
    collect(JobFolder(one.path.rename(tmp_path / "moved")), tmp_path / "got")


def test_another_jobs_folder_is_refused_and_its_own_is_not(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one", "a" * 32), make(tmp_path / "other", "b" * 32)
    with pytest.raises(RequestError, match="is the folder of another job: name another folder"):
        collect(one, other.path)
    assert not other.outputs.exists()
    collect(one, one.path)
    assert read_lines(one.outputs)[0]["text"] == "one"


@pytest.mark.parametrize("name", ["outputs.jsonl", "summary.json"])
@pytest.mark.parametrize("content", ["by hand\n", "{}", '{"job": 5}'])
def test_a_file_that_is_of_no_job_stays(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / "got" / name
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(RequestError, match=f"has a file {name} that is not of this job: name another folder"):
        collect(make(tmp_path / "one", "a" * 32), file.parent)
    assert file.read_text() == content
    assert len(list(file.parent.iterdir())) == 1


def test_a_link_to_nothing_stays(tmp_path: Path) -> None:
    link = tmp_path / "outputs.jsonl"
    link.symlink_to("nothing")
    with pytest.raises(RequestError, match=r"has a file outputs\.jsonl"):
        collect(make(tmp_path / "one", "a" * 32), tmp_path)
    assert link.is_symlink()


def test_an_interrupted_collect_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(tmp_path / "one", "a" * 32)

    def full(self: Path, target: Path) -> Path:
        if target.name == "outputs.jsonl":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    rename = Path.rename
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with pytest.raises(CollectError, match="No space left on device: nothing is lost, collect again"):
            collect(one, tmp_path / "got")
    collect(one, tmp_path / "got")
    assert len(read_lines(tmp_path / "got" / "outputs.jsonl")) == 1


def test_paths_are_absolute(tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(tmp_path / "one", "a" * 32)
    monkeypatch.chdir(tmp_path)
    ran = run_cli("collect", one.path, "--output", "got")
    rows = str(tmp_path / "got" / "outputs.jsonl")
    assert ran.out.rstrip().endswith(f": {rows}")
    assert json.loads(Path("got/summary.json").read_text())["outputs"] == rows
    assert collect(one, "got").outputs == rows


def test_an_empty_name_is_refused(tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(tmp_path / "one", "a" * 32)
    monkeypatch.chdir(tmp_path)
    ran = run_cli("collect", one.path, "--output", "")
    assert (ran.code, ran.err) == (2, "Error: --output must be a folder, not '': name one, or leave it out\n")
    assert not Path("outputs.jsonl").exists()


@pytest.mark.throughput
@pytest.mark.parametrize("where", [[], ["--output", os.fsdecode(b"g\xfft")]], ids=["in it", "elsewhere"])
def test_a_folder_whose_name_is_not_utf_8_is_collected(
    tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, where: list[str]
) -> None:
    """No JSON can hold its path."""
    monkeypatch.chdir(tmp_path)
    folder = JobFolder(named_job(tmp_path / "one").path.rename(tmp_path / os.fsdecode(b"n\xffme")))
    for words in (["collect"], ["collect", "--json"], ["clean"], ["collect"]):
        ran = run_cli(words[0], folder.path, *words[1:], *(where if words[0] == "collect" else []))
        assert (ran.code, ran.err) == (0, "")
    got = Path(where[1]) if where else folder.path
    assert json.loads((got / "summary.json").read_text())["job"] == str(tmp_path / "n?me")
    assert len(read_lines(got / "outputs.jsonl")) == 3
