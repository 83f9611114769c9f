"""lifecycle.sh: what it hands on of torchrun's words, how often it looks at the folder, how it asks for a requeue."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.schedulers.test_lifecycle import BEGIN, Shell

pytestmark = [pytest.mark.inputs, pytest.mark.timeout(60)]
# torchrun of torch 2.13, as it was told to end by TERM.
TOLD = (Path(__file__).parent / "torchrun_told_to_end.txt").read_text()
TRACE = "Traceback (most recent call last):\n"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def said(shell: Shell, text: str) -> list[str]:
    (shell.job / "words").write_text(text)
    return shell.run(f"HOSTNAME=n1; say_briefly < {shell.job}/words").out.splitlines()


def test_of_a_signal_one_line_is_left(shell: Shell) -> None:
    assert len(TOLD.splitlines()) > 30
    assert said(shell, TOLD) == ["vllm-hpc: torchrun on n1 was told to end (signal 15)"]


def test_of_a_second_signal_none_is(shell: Shell) -> None:
    """PBS sends TERM twice: then the traceback has one of another within it."""
    chained = "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert said(shell, TOLD + chained + TOLD[TOLD.index(TRACE) :]) == said(shell, TOLD)


@pytest.mark.parametrize(
    "text",
    [
        "a line\n",
        "no end of line",
        "\n\n",
        f"{TRACE}  File x\n    y\nValueError: no\nand on\n",
        f"{TRACE}  File x\nValueError: no\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{TRACE}  File x\nKeyError: 1\n",
        f"{TRACE}  File cut",
        f"W1130 torch/distributed/elastic: failed (exitcode: -9) local_rank: 0\n{TRACE}  File x\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\nvllm_hpc.in_job FAILED\n",
        f"x {TRACE}  File x\n",
        "back\\slash %s $HOME `id`\n",
        "  indented\n\ttab\n",
        "é \x1b[31m\r50%\r100%\n",
    ],
)
def test_all_else_is_handed_on_as_it_is(shell: Shell, text: str) -> None:
    (shell.job / "words").write_bytes(text.encode())
    shell.run(f"say_briefly < {shell.job}/words > {shell.job}/out")
    whole = text.encode()
    assert (shell.job / "out").read_bytes().rstrip(b"\n") == whole.rstrip(b"\n")


def test_it_reads_to_the_end_whatever_signal_comes(shell: Shell) -> None:
    words = f"echo one; until [ -e {shell.job}/told ]; do sleep 0.05; done; echo two"
    ran = shell.run(
        f"say_briefly < <({words}) > {shell.job}/out & until [ -s {shell.job}/out ]; do sleep 0.05; done\n"
        f"kill -TERM $!; : > {shell.job}/told; wait $!; cat {shell.job}/out"
    )
    assert ran.out == "one\ntwo\n"


# -- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "looks"),
    [
        ("0 0 1 1 2", "yes no yes no yes"),
        ("59 60 61 69 70 79 80", "yes no no yes no yes no"),
        ("100 109 110", "yes no yes"),
    ],
)
def test_it_is_looked_at_each_second_at_first_and_then_each_ten(shell: Shell, seconds: str, looks: str) -> None:
    ran = shell.run(f"for s in {seconds}; do SECONDS=$s; if is_due 0; then echo yes; else echo no; fi; done")
    assert ran.out.split() == looks.split()


# -- a requeue -------------------------------------------------------------------------------------------------------

# What scontrol says where slurmctld is down (Slurm 22.05, src/common/slurm_errno.c), and what it refuses for good.
UNREACHED = [
    "slurm_requeue error: Unable to contact slurm controller (connect failure)",
    "slurm_requeue error: Socket timed out on send/recv operation",
]
REFUSED = ["slurm_requeue error: Requested operation is presently disabled for job 7", "Invalid job id specified", ""]
QUICK = 'sleep() { echo "slept $1"; SECONDS=$((SECONDS + $1)); }\n'
LIMIT = BEGIN.replace("time_limit_s=''", "time_limit_s=120")


@pytest.mark.parametrize("words", UNREACHED)
def test_a_scheduler_that_is_not_reached_is_asked_again(shell: Shell, words: str) -> None:
    fails = f'[ "$(wc -l < {shell.job}/asked)" -ge 3 ] || {{ echo "{words}" >&2; exit 1; }}'
    shell.program("ask", f"echo x >> {shell.job}/asked; {fails}")
    ran = shell.run(f"{QUICK}{LIMIT}SECONDS=85; keep_asking ask; echo rc $?")
    assert ran.out.splitlines()[:3] == ["slept 5", "slept 10", "rc 0"]
    assert ran.err.count(words) == 2
    assert "vllm-hpc: the scheduler was not reached; next try in 10 s" in ran.err


def test_it_is_not_asked_beyond_the_walltime(shell: Shell) -> None:
    shell.program("ask", f"echo '{UNREACHED[0]}' >&2; exit 1")
    ran = shell.run(f"{QUICK}{LIMIT}SECONDS=85; keep_asking ask; echo rc $? at $SECONDS")
    *slept, last = ran.out.splitlines()
    assert slept == ["slept 5", "slept 10"]
    assert last.startswith("rc 1 at 10")  # bash also counts the real seconds that a busy machine took


def test_without_a_walltime_it_is_asked_for_ten_minutes(shell: Shell) -> None:
    shell.program("ask", f"echo '{UNREACHED[0]}' >&2; exit 1")
    ran = shell.run(f"{QUICK}{BEGIN}SECONDS=0; keep_asking ask; echo rc $? at $SECONDS")
    _, code, _, seconds = ran.out.splitlines()[-1].split()
    assert code == "1"
    assert 555 <= int(seconds) < 600  # see above


@pytest.mark.parametrize("marker", ["cancelled", "drain"])
def test_it_is_not_asked_again_once_the_job_is_told_to_stop(shell: Shell, marker: str) -> None:
    stop = f"mkdir -p {shell.job}/control; touch {shell.job}/control/{marker}"
    shell.program("ask", f"echo x >> {shell.job}/asked; {stop}; echo '{UNREACHED[0]}' >&2; exit 1")
    ran = shell.run(f"{QUICK}{LIMIT}SECONDS=85; keep_asking ask; echo rc $?")
    assert ran.out.splitlines() == ["slept 5", "rc 1"]
    assert "not asked again: the job was told to stop" in ran.err
    assert (shell.job / "asked").read_text() == "x\n"


@pytest.mark.parametrize("words", REFUSED)
def test_a_refusal_is_taken_as_it_is(shell: Shell, words: str) -> None:
    shell.program("ask", f"echo x >> {shell.job}/asked; echo '{words}' >&2; exit 1")
    ran = shell.run(f"{QUICK}{LIMIT}keep_asking ask; echo rc $?")
    assert ran.out == "rc 1\n"
    assert (shell.job / "asked").read_text() == "x\n"
