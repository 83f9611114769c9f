"""Sweeps: a job for each combination of options, found again, cancelled and compared together."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vllm_hpc
from tests import crafted
from tests.real_jobs import write_input
from vllm_hpc import Job, JobNotFoundError, RefusedError, RequestError, SubmitError, Sweep, sweep
from vllm_hpc.api import grid
from vllm_hpc.api.cards import card
from vllm_hpc.api.options import Options
from vllm_hpc.api.sweep_options import SweepOptions
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs import submit as submission
from vllm_hpc.schedulers.scheduler import JobState

pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(120)]

_RUNNING = JobState("running")
ROWS: list[dict[str, Any]] = [{"id": f"row-{number}", "prompt": f"row {number}"} for number in range(3)]


def points(model: object = None, over: dict[str, Any] | None = None, **options: Any) -> list[dict[str, Any]]:
    return grid.grid(model, options, over or {})


def test_the_last_parameter_changes_fastest() -> None:
    assert points(["a", "b"], temperature=[0.0, 0.7], input=["x", "y"]) == [
        {"model": "a", "temperature": 0.0}, {"model": "a", "temperature": 0.7},
        {"model": "b", "temperature": 0.0}, {"model": "b", "temperature": 0.7},
    ]  # fmt: skip


def test_what_is_swept_is_a_list_of_single_values() -> None:
    assert points(tp=range(1, 3)) == [{"tp": 1}, {"tp": 2}]
    assert points(tp=(1,), lora=["a", "b"], directive=["x"], script_args=["1"]) == [{"tp": 1}]
    assert points(over={"engine.max_num_seqs": [64], "lora": [["a"], ["a", "b"]]}) == [
        {"engine.max_num_seqs": 64, "lora": ["a"]}, {"engine.max_num_seqs": 64, "lora": ["a", "b"]},
    ]  # fmt: skip


def test_an_array_of_numpy_is_swept() -> None:
    numpy = pytest.importorskip("numpy")
    assert points(temperature=numpy.array([0.0, 0.5])) == [{"temperature": 0.0}, {"temperature": 0.5}]
    assert grid.plain(numpy.float64(0.5)) == 0.5


@pytest.mark.parametrize(
    ("options", "over", "words"),
    [
        ({"temperature": 0.5}, {}, "nothing is swept"),
        ({"input": ["a", "b"]}, {}, "nothing is swept"),
        ({"temperature": []}, {}, "temperature has an empty list"),
        ({"temperature": [[1]]}, {}, "temperature must be a list of single values"),
        ({"temperature": [1, 1]}, {}, "temperature has the value 1 twice"),
        ({"temperature": [1]}, {"temperature": [1]}, "temperature is swept twice"),
        ({"name": ["a", "b"]}, {}, "name must be one value"),
        ({"job_dir": ["a", "b"]}, {}, "job_dir must be one value"),
        ({}, {"temperature": 1}, "must have a list of values for 'temperature'"),
        ({}, {"temperature": "ab"}, "must have a list of values"),
        ({}, {"tempature": [1]}, "over= has 'tempature', which must be an option"),
        ({}, {"engine": [{}]}, "over= has 'engine'"),
        ({}, {"engine.": [1]}, "over= has 'engine.'"),
        ({}, {"name": ["a"]}, "over= has 'name'"),
        ({"seed": range(40), "tp": range(1, 41)}, {}, "at most 1000 jobs, not 1600"),
    ],
)
def test_what_cannot_be_swept_is_refused(options: dict[str, Any], over: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        points(over=over, **options)
    assert words in str(caught.value)


def test_the_options_of_a_point_keep_the_rest_of_a_table() -> None:
    found = grid.options_of({"engine.max_num_seqs": 8}, {"engine": {"dtype": "float32"}, "tp": 1})
    assert found == {"engine": {"dtype": "float32", "max_num_seqs": 8}, "tp": 1}
    with pytest.raises(RequestError, match="engine= must be a table"):
        grid.options_of({"engine.max_num_seqs": 8}, {"engine": 5})


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ({"temperature": 0.5}, "s-001-temperature=0.5"),
        ({"model": "/models/Llama-3/", "engine.max_num_seqs": 8}, "s-001-model=Llama-3-max_num_seqs=8"),
        ({"model": "../../*\0\n$(x)'é"}, "s-001-model=_x"),
        ({"model": "x" * 500}, "s-001-model=" + "x" * 54),
    ],
)
def test_jobs_are_named_after_their_parameters(point: dict[str, Any], name: str) -> None:
    assert grid.job_name("s", 1, point) == name


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(write_input(tmp_path / "prompts.jsonl", ROWS))


def rehearse(source: object, **options: Any) -> Sweep:
    given = {"scheduler": "local", "rehearse": {"tokens_per_s": 5000}, "tp": 1, "max_tokens": 4, **options}
    return sweep(input=source, **given)


@pytest.mark.parametrize("one_job", [pytest.param(False, marks=pytest.mark.full), None])
def test_a_sweep_runs_and_is_compared(source: str, one_job: bool | None, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    found = rehearse(source, name="s", max_tokens=[4, 8], one_job=one_job)
    names = ["s-001-max_tokens=4", "s-002-max_tokens=8"] if one_job is False else ["s-all"]
    assert [job.path.name for job in found.jobs] == names
    assert [one.state for one in found.wait(100, progress=True)] == ["COMPLETED"] * len(names)
    said = capfd.readouterr().err.splitlines()
    assert said and (one_job is None or said[-1] == repr(found))
    size = "2 jobs, 2" if one_job is False else "2 points in one job, 1"
    assert repr(found) == f"Sweep s: {size} COMPLETED"
    assert card(found).count('<td class="vh-num">3/3</td>') == 2
    assert [(row["max_tokens"], row["index"], row["id"]) for row in found.results()] == [
        (tokens, index, f"row-{index}") for tokens in (4, 8) for index in range(3)
    ]
    assert not any("sweep" in row for row in found.results())
    frame = found.dataframe()
    assert list(frame.columns)[:1] == ["max_tokens"]
    assert list(frame["max_tokens"]) == [4] * 3 + [8] * 3
    wide = found.compare()
    assert list(wide.columns) == ["id", "max_tokens=4", "max_tokens=8"]
    assert list(wide["id"]) == ["row-0", "row-1", "row-2"]
    assert list(wide["max_tokens=8"]) == [row["text"] for row in found.results() if row["max_tokens"] == 8]
    assert list(found.compare(column="completion_tokens")["max_tokens=4"]) == [4, 4, 4]
    with pytest.raises(RequestError, match="on='replica' must tell rows apart"):
        found.compare(on="replica")
    with pytest.raises(RequestError, match="on='nothing' must be a field of all rows"):
        found.compare(on="nothing")
    again = Sweep.find("s")
    assert [point.parameters for point in again] == [{"max_tokens": 4}, {"max_tokens": 8}]
    assert [job.path for job in again.jobs] == [job.path for job in found.jobs]
    assert repr(again) == repr(found)


def test_nothing_is_submitted_if_a_point_is_refused(source: str) -> None:
    with pytest.raises(RefusedError) as caught:
        rehearse(source, name="s", over={"temperature": [0.5, -3]})
    assert str(caught.value).startswith("point 2 (temperature=-3): temperature=-3")
    assert str(caught.value).endswith("nothing was submitted")
    assert not Path("runs").exists()


def test_a_misspelt_option_is_named(source: str) -> None:
    with pytest.raises(RequestError, match=r"temprature= is not an option: did you mean temperature=\?"):
        rehearse(source, temprature=[1, 2], max_tokens=[4, 8])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that would have been submitted: their folders are made by hand. A third is refused."""
    found: list[str] = []

    def submit(prepared: submission.Prepared, from_here: bool = False) -> Job:
        if len(found) == 2:
            raise SubmitError("sbatch: error: QOSMaxSubmitJobPerUserLimit")
        found.append(Path(prepared.folder).name)
        crafted.make_job(Path(prepared.folder), 3)
        return Job(prepared.folder)

    monkeypatch.setattr(submission.Prepared, "submit", submit)
    return found


def test_jobs_that_were_submitted_before_a_refusal_stay(source: str, sent: list[str]) -> None:
    with pytest.raises(SubmitError) as caught:
        rehearse(source, name="s", seed=[1, 2, 3])
    assert str(caught.value).startswith("point 3 (seed=3) was not submitted: sbatch: error: QOS")
    assert "2 jobs before it stay submitted: Sweep.find(" in str(caught.value)
    found = Sweep.find(Path("runs") / "s")
    assert [point.parameters for point in found] == [{"seed": 1}, {"seed": 2}]


def test_a_sweep_of_which_nothing_was_submitted_leaves_nothing(source: str, sent: list[str]) -> None:
    sent += ["a", "b"]
    with pytest.raises(SubmitError, match=r"^point 1 \(seed=1\) was not submitted"):
        rehearse(source, name="s", seed=[1, 2, 3])
    assert not Path("runs/s").exists()


def test_a_generator_of_rows_is_for_all_points(source: str, sent: list[str]) -> None:
    def files() -> Iterator[str]:
        yield source

    assert len(rehearse(files(), seed=[1, 2])) == 2


def test_a_name_that_is_taken_is_refused(source: str, sent: list[str]) -> None:
    rehearse(source, name="s", seed=[1, 2])
    with pytest.raises(RequestError, match="already exists: choose another name"):
        rehearse(source, name="s", seed=[1, 2])
    for name in ("../s", ".s", "a/b", "\0", ""):
        if name:
            with pytest.raises(RefusedError):
                rehearse(source, name=name, seed=[1, 2])


def test_cancel_tells_which_job_could_not_be(source: str, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = rehearse(source, name="s", seed=[1, 2])
    order = []

    def cancel(job: Job) -> None:
        order.append(job.path.name)
        if job.path.name == "s-001-seed=1":
            raise vllm_hpc.FailedError("the controller is down")

    monkeypatch.setattr(Job, "cancel", cancel)
    monkeypatch.setattr("vllm_hpc.schedulers.local._query", lambda job: _RUNNING)
    with pytest.raises(vllm_hpc.FailedError, match="1 job not cancelled: s-001-seed=1: the controller is down"):
        found.cancel()
    assert order == ["s-002-seed=2", "s-001-seed=1"], "the last first: no other one starts in its place"
    with pytest.raises(TimeoutError, match="2 of 2 jobs of s have not ended after 0 s"):
        found.wait(0)


def test_a_wait_for_a_job_that_is_gone_ends(source: str, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = rehearse(source, name="s", seed=[1, 2])
    monkeypatch.setattr("vllm_hpc.schedulers.local._query", lambda job: _RUNNING)
    shutil.rmtree(found[1].job.path)
    with pytest.raises(vllm_hpc.JobNotFoundError, match="s-002-seed=2' is not a job folder"):
        found.wait(0)


def test_an_interrupted_wait_is_a_line(source: str, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = rehearse(source, name="s", seed=[1])

    def status(self: vllm_hpc.Sweep) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vllm_hpc.Sweep, "status", status)
    with pytest.raises(KeyboardInterrupt, match=r"^the jobs of s continue: sweep\.wait\(\)$") as caught:
        found.wait()
    assert vars(caught.value)["_render_traceback_"]() == [f"Interrupted: {caught.value}"]


def test_a_sweep_draws_itself(source: str, sent: list[str]) -> None:
    found = rehearse(source, name="s", over={"sampling.stop": ["<b>", "&"]}, one_job=False)
    html = card(found)
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert "sampling.stop" in html and "s-001-stop=_b" in html
    assert found._repr_html_() == html


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"{}", b'{"points": [], "created_at": 0}', b"[" * 9999, b'{"points": 1}']
)
def test_a_folder_that_is_no_sweep(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(JobNotFoundError, match="no sweep"):
        Sweep.find(tmp_path)
    with pytest.raises(JobNotFoundError, match="no sweep 'nothing'"):
        Sweep.find("nothing", job_dir=tmp_path)


def test_a_record_cannot_point_elsewhere(tmp_path: Path) -> None:
    write_json(tmp_path / "sweep.json", {"created_at": 0, "points": [{"parameters": {}, "job": "../x"}]})
    with pytest.raises(RequestError, match="cannot be a folder's name"):
        Sweep.find(tmp_path)


def test_every_option_is_in_the_signature() -> None:
    names = inspect.signature(sweep).parameters
    assert {"model", "over", "name", "temperature", "engine", "input"} <= set(names)
    assert "temperature: Sampling temperature" in str(sweep.__doc__)


def test_the_record_is_plain_json(source: str, sent: list[str]) -> None:
    rehearse(source, name="s", seed=[1, 2])
    record = json.loads(Path("runs/s/sweep.json").read_text())
    assert record["points"] == [
        {"parameters": {"seed": 1}, "job": "s-001-seed=1"}, {"parameters": {"seed": 2}, "job": "s-002-seed=2"},
    ]  # fmt: skip


def test_the_options_of_a_type_checker_are_those_of_a_job() -> None:
    assert {*SweepOptions.__annotations__, "name"} == {*Options.__annotations__}
    swept = {name for name, kind in SweepOptions.__annotations__.items() if "Swept[" in str(kind)}
    assert all(grid._is_swept(name, ["a", "b"]) for name in swept)
    assert not any(
        grid._is_swept(name, ["a"]) for name in SweepOptions.__annotations__.keys() - swept - {*grid._NOT_SWEPT}
    )
