"""Errors in Python: its words, few frames, and one line in a notebook with the traceback on request."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import pytest

import vllm_hpc
from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc.api.errors import python_words
from vllm_hpc.jobs.job import Job
from vllm_hpc.spec.errors import CollectError, RequestError, VllmHpcError

pytestmark = pytest.mark.notebooks


@pytest.mark.parametrize(
    ("said", "in_python"),
    [
        ("--temperature must be a number, 0 or more", "temperature= must be a number, 0 or more"),
        ("--temperature nan must be a number", "temperature=nan must be a number"),
        ("--temperature -1.0 must be a number", "temperature=-1.0 must be a number"),
        ("change --tp, --pp or --gpus-per-node", "change tp=, pp= or gpus_per_node="),
        ("use --nodes 1, or --scheduler slurm or pbs", "use nodes=1, or scheduler='slurm' or pbs"),
        ("--name 'a b' is taken", "name='a b' is taken"),
        ("use --order input, or --input input.jsonl", "use order='input', or input= input.jsonl"),
        ("--max-requeues 3): less", "max_requeues=3): less"),
        ("add --script FILE, or leave it out", "add script=FILE, or leave it out"),
        ("pipe it into --input -", "pipe it into input='-'"),
        ("--rehearse needs torch: add --private", "rehearse=True needs torch: add private=True"),
        ("--array must be true or false", "array= must be True or False"),
        ("--partition: not used by the local scheduler", "partition: not used by the local scheduler"),
        ("--engine seed cannot be set here: use --seed", "engine['seed'] cannot be set here: use seed="),
        ("use --engine runner=pooling", "use engine={'runner': 'pooling'}"),
        ("--env A=1 and --env B are both given", "env={'A': '1'} and env['B'] are both given"),
        ("--sampling is no table", "sampling= is no table"),
        ("MODEL is missing", "model is missing"),
        ("run 'vllm-hpc submit --name a' again", "run 'vllm-hpc submit --name a' again"),
        ("see: vllm-hpc status /jobs/a --json", "see: vllm-hpc status /jobs/a --json"),
        ("'squeue --me --name x' lists it: use --time", "'squeue --me --name x' lists it: use time="),
        ("--directive '--time=3' cannot be set here", "directive='--time=3' cannot be set here"),
        ("as in --constraint=h100 or --rdzv-conf rank=NODE", "as in --constraint=h100 or --rdzv-conf rank=NODE"),
        ("(--job-dir, or --profile for its job_dir)", "(job_dir=, or $VLLM_HPC_PROFILE for its job_dir)"),
        ("the profile's --time isn't the user's", "the profile's time= isn't the user's"),
    ],
)
def test_a_message_is_worded_as_python_is(said: str, in_python: str) -> None:
    assert python_words(said) == in_python
    assert python_words(in_python) == in_python, "worded twice, it stays"


def test_a_traceback_has_no_frames_of_the_rooms_below(desk: Path) -> None:
    try:
        vllm_hpc.submit("demo", temperature="hot")  # type: ignore[arg-type]
    except RequestError as error:
        frames = [Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)]
        assert frames == [Path(__file__).name, "errors.py"]
        assert "During handling" not in "".join(traceback.format_exception(error))
    else:
        pytest.fail("it was taken")


def test_a_notebook_shows_one_line_and_then_the_traceback() -> None:
    with pytest.raises(RequestError) as caught:
        vllm_hpc.submit("demo", max_tokns=3)  # type: ignore[call-arg]
    assert caught.value._render_traceback_() == ["RequestError: max_tokns= is not an option: did you mean max_tokens=?"]
    first, *frames, last = caught.value._render_traceback_()
    assert (first, last.partition(":")[0]) == ("Traceback (most recent call last):", "RequestError")
    assert [True for frame in frames if "functions.py" in frame]


def test_an_error_from_below_is_one_line_without_control_characters() -> None:
    (line,) = VllmHpcError("--rank \x1b[31m\nmust be 0\u202e" + "x" * 100_000)._render_traceback_()
    assert line.startswith("VllmHpcError: rank= \ufffd[31m must be 0\ufffd")
    assert len(line) < 5000


IN_IPYTHON = """
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
for code in ("import vllm_hpc", "vllm_hpc.submit('demo', max_tokns=3)", "print('--')", "%tb", "print('--')", "1 / 0"):
    shell.run_cell(code)
with provisionalcompleter():
    names = [one.text for one in shell.Completer.completions("vllm_hpc.submit('demo', max_tok", 31)]
print("--", names)
"""


@pytest.mark.full  # starts an IPython
def test_ipython_shows_it_like_that(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_IPYTHON], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    error, whole, other = (part.strip() for part in ran.stdout.split("--\n", 2))
    assert error == "RequestError: max_tokns= is not an option: did you mean max_tokens=?"
    assert whole.startswith("Traceback (most recent call last):")
    assert whole.endswith(error)
    assert "ZeroDivisionError" in other
    assert "-- ['max_tokens=']" in other


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "use --prompt-column question, or --prompt-template with {{ question }}",
            "use prompt='question', or prompt='{{ question }}'",
        ),
        (
            "use --prompt-template 'Is {{ a }}?', or --prompt-column a for that",
            "use prompt='Is {{ a }}?', or prompt='a' for that",
        ),
        ("--prompt-column and --prompt-template are both given", "prompt_column= and prompt_template= are both given"),
        ("correct --keep 'urll', or leave it out", "correct keep='urll', or leave it out"),
    ],
)
def test_advice_for_a_prompt_is_prompt(said: str, expected: str) -> None:
    assert python_words(said) == expected


def test_the_methods_of_a_job_say_it_as_python_does(desk: Path, run_cli: Cli) -> None:
    make_job(desk / "runs" / "worded")
    job = vllm_hpc.find_job("worded")
    with pytest.raises(RequestError, match=r"^rank= must be from 0 to 0, not 9$") as caught:
        job.logs(rank=9)
    assert [Path(frame.filename).name for frame in traceback.extract_tb(caught.value.__traceback__)][1:] == [
        "border.py"
    ]
    assert "--rank must be from 0 to 0, not 9" in run_cli("logs", "worded", "--rank", "9").err
    with pytest.raises(RequestError, match=r"^rank= "):
        job.logs(rank=9)  # the command line's words ended with it


@pytest.mark.throughput
def test_rows_that_come_one_by_one_say_it_as_python_does(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the error is found only when a row is asked for."""
    job = Job(make_job(desk / "runs" / "worded").path)

    def broken(*_: object, **__: object) -> NoReturn:
        raise CollectError("a shard cannot be read: give another --output")

    async def rows() -> None:
        async for _ in job:
            pass

    streams = (lambda: list(job.stream()), lambda: asyncio.run(rows()))
    looks = (*streams, lambda: list(job.statuses()))
    for where, asks in (
        ("stream.NewRows", streams),
        ("stream.NewRows.results", streams),
        ("status.read_status", looks),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"vllm_hpc.jobs.{where}", broken)
            for ask in asks:
                with pytest.raises(CollectError, match=r"^a shard cannot be read: give another output=$"):
                    ask()
