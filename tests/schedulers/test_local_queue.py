"""The queue of this machine: jobs on the local scheduler wait for GPUs, or for memory and cores, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.real_jobs import wait_for, write_input
from vllm_hpc import Job, RequestError, submit
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.schedulers.local import SupervisorRecord, machine, queue
from vllm_hpc.schedulers.local.machine import Gpu, Machine, this_machine
from vllm_hpc.schedulers.local.queue import Place, Ticket, ticket_of, waits_for
from vllm_hpc.spec.plan import Memory

pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(120)]

GPUS = tuple(Gpu(str(number), f"GPU-{number}{number}aa") for number in range(4))
WITH_GPUS = Machine(GPUS, 64, 500.0)
ON_CPU = Machine((), 16, 20.0)
SMI = """#!/bin/sh
case "$1" in
  *index*) printf '0, GPU-00aa\\n1, GPU-11aa\\n2, GPU-22aa\\n3, GPU-33aa\\n' ;;
  *) yes 'NVIDIA H100 80GB HBM3, 81559' | head -n 4 ;;
esac
"""
# What the scripts of these jobs do: say that they run, and wait until they are told to go on.
HELD = (
    'cd "$VLLM_HPC_FOLDER" && echo "$CUDA_VISIBLE_DEVICES" > runs.new && mv runs.new runs;'
    " while [ ! -e go ]; do sleep 0.05; done"
)


def ticket(ranks: int = 1, gib: float | None = 4.0, **more: object) -> Ticket:
    return msgspec.structs.replace(Ticket(job="/runs/a", line="engines", ranks=ranks, gib=gib), **more)


def may_start(place: Place, where: Machine, most: int | None = None) -> bool:
    answer = place.ask(where, most)
    assert answer is not None
    return answer.may_start


def test_gpus_are_given_in_order_and_nobody_overtakes(tmp_path: Path) -> None:
    pair, one, other_pair, last = (Place(ticket(ranks), tmp_path) for ranks in (2, 1, 2, 1))
    assert not may_start(last, WITH_GPUS), "those before it have not started"
    assert [gpu.name for gpu in pair.ask(WITH_GPUS).gpus] == ["0", "1"]  # type: ignore[union-attr]
    assert [gpu.name for gpu in one.ask(WITH_GPUS).gpus] == ["2"]  # type: ignore[union-attr]
    assert other_pair.ask(WITH_GPUS) == (False, 2, ())
    assert last.ask(WITH_GPUS) == (False, 3, ()), "GPU 3 is free, but who needs two would wait for ever"
    one.leave()
    assert [gpu.name for gpu in other_pair.ask(WITH_GPUS).gpus] == ["2", "3"]  # type: ignore[union-attr]
    pair.leave()
    assert [gpu.name for gpu in last.ask(WITH_GPUS).gpus] == ["0"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("mine", "running", "expected"),
    [
        (ticket(gib=900.0), [], True),  # the first always runs: the plan has said that it does not fit
        (ticket(gib=None), [], True),
        (ticket(), [ticket()], True),
        (ticket(gib=None), [ticket()], False),
        (ticket(), [ticket(gib=None)], False),
        (ticket(gib=8.0), [ticket(gib=8.0), ticket(gib=8.0)], False),  # 24 of 20 GiB
        (ticket(gib=0.1), [ticket(gib=0.1)] * 3, True),
        (ticket(gib=0.1), [ticket(gib=0.1)] * 4, False),  # five ranks on 16 cores
        (ticket(line="rehearsals"), [ticket()] * 63, True),
        (ticket(line="rehearsals"), [ticket()] * 64, False),
    ],
)
def test_memory_and_cores_decide_without_gpus(
    mine: Ticket, running: list[Ticket], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "free_gib", lambda: 20.0)
    assert queue._answer(mine, running, ON_CPU, None).may_start == expected


def test_memory_that_other_programs_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "free_gib", lambda: 3.9)
    assert not queue._answer(ticket(), [ticket()], ON_CPU, None).may_start
    assert queue._answer(ticket(), [], ON_CPU, None).may_start


def test_what_a_job_needs_is_in_its_plan(tmp_path: Path) -> None:
    record = crafted.make_job(tmp_path / "job", shape=crafted.layout(tp=2)).job()
    assert ticket_of(tmp_path, record) == Ticket(job=str(tmp_path), line="engines", ranks=2)
    plan = msgspec.structs.replace(record.plan, memory=Memory(per_gpu_gib=2.5, kv_gib_per_gpu=1.0))
    assert ticket_of(tmp_path, msgspec.structs.replace(record, plan=plan)).gib == 7.0


def test_a_killed_supervisor_gives_its_place_back(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vllm_hpc.schedulers.local.queue import *\n"
        "place = Place(Ticket(job='a', line='engines', ranks=1), Path(sys.argv[1]))\n"
        "print(place.ask(Machine((), 16, 20.0), 1).may_start, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "True\n"
        mine = Place(ticket(), tmp_path)
        assert mine.ask(ON_CPU, 1) == (False, 1, ())
        child.kill()
    assert may_start(mine, ON_CPU, 1)
    assert list(tmp_path.glob("*.ticket")) == [mine.path]


def test_whoever_stops_at_the_door_holds_nobody_up(tmp_path: Path) -> None:
    mine = Place(ticket(), tmp_path)
    with mine._door():
        assert mine.ask(ON_CPU) is None
    assert may_start(mine, ON_CPU)


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b'{"job": 1}', b"[" * 5000, "é".encode("latin-1")])
def test_a_file_that_is_no_ticket_holds_nobody_up(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0-1.ticket").write_bytes(content)
    (tmp_path / "0-2.ticket").mkdir()
    os.mkfifo(tmp_path / "0-3.ticket")
    (tmp_path / "0-4.ticket").symlink_to("/etc/passwd")
    assert may_start(Place(ticket(), tmp_path), ON_CPU, 1)


def run_one(folder: Path, most: int, total: int) -> None:
    """A job of a child process: it starts, waits until as many run as may, and ends. The log has both."""
    place, log = Place(ticket(), folder), os.open(folder / "log", os.O_APPEND | os.O_CREAT | os.O_RDWR)
    wait_for(lambda: bool((answer := place.ask(ON_CPU, most)) and answer.may_start), "it starts", 60)
    os.write(log, b"+")
    wait_for(lambda: os.pread(log, 2 * total, 0).count(b"+") >= most, "the first ones run together", 60)
    os.write(log, b"-")
    place.leave()


def test_thirty_jobs_run_three_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.real_jobs.time.sleep", lambda _: os.sched_yield())
    children = []
    for _ in range(30):
        children.append(os.fork())
        if children[-1] == 0:
            signal.alarm(60)
            try:
                run_one(tmp_path, 3, 30)
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 30
    running, most = 0, 0
    for step in (tmp_path / "log").read_text():
        running += 1 if step == "+" else -1
        most = max(most, running)
    assert (running, most) == (0, 3)
    assert list(tmp_path.glob("*.ticket")) == []


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [("0", "GPU-00aa"), ("1", "GPU-11aa"), ("2", "GPU-22aa"), ("3", "GPU-33aa")]),
        ("2, 3", [("2", "GPU-22aa"), ("3", "GPU-33aa")]),
        ("GPU-33", [("GPU-33", "GPU-33aa")]),
        ("MIG-7,9", [("MIG-7", "MIG-7"), ("9", "9")]),
        ("", []),
    ],
)
def test_cuda_visible_devices_says_which_gpus_there_are(
    four_gpus: None, visible: str | None, expected: list[tuple[str, str]]
) -> None:
    assert list(this_machine(visible).gpus) == expected
    assert this_machine(visible, has_gpus=False).gpus == ()


def test_amds_gpus_are_all_of_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_AMD_DRIVER", tmp_path)
    assert not queue._answer(ticket(gib=0.0), [ticket(gib=0.0)], this_machine(None), None).may_start


def test_words_of_what_a_job_waits_for() -> None:
    assert waits_for(ticket(), WITH_GPUS, None, 2) == "waiting for a GPU of this machine: 2 jobs before it"
    assert waits_for(ticket(4), WITH_GPUS, None, 1) == "waiting for 4 GPUs of this machine: 1 job before it"
    assert waits_for(ticket(), ON_CPU, None, 1) == "waiting for memory and cores of this machine: 1 job before it"
    assert waits_for(ticket(), ON_CPU, 3, 0) == "waiting for its turn (VLLM_HPC_LOCAL_QUEUE is 3)"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job]]:
    """Submit a job whose ranks are a shell's loop, to a queue of this test's own. None outlives a test that fails."""
    crafted.lay_out(tmp_path)
    (tmp_path / "temporary").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("VLLM_HPC_LOCAL_QUEUE", "on")
    (tmp_path / "template" / "local.sh.j2").write_text(
        '{% extends "packaged/local.sh.j2" %}{% block rendezvous %}{% endblock %}{% block launch %}'
        "start_work bash -c " + f"{{{{ {HELD!r}|sh }}}}" + "\nwait_for_work\n{% endblock %}"
    )

    made: list[Job] = []

    def run(**options: Any) -> Job:
        job = submit("model", scheduler="local", template_dir="template", job_dir="runs", tp=1, sample=True, **options)
        made.append(job)
        return job

    yield run
    for job in made:
        if not job.status().is_final:
            job.cancel()


def runs(job: Job) -> bool:
    return (job.path / "runs").exists()


def test_a_job_waits_and_is_cancelled_or_starts(start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (start(name=name) for name in ("first", "second", "third"))
    wait_for(lambda: runs(first), "the first one runs", 60)
    words = "waiting for memory and cores of this machine: {} before it"
    wait_for(lambda: second.status().reason == words.format("1 job"), "it says what it waits for", 60)
    wait_for(lambda: third.status().reason == words.format("2 jobs"), "so does the last", 60)
    assert (second.status().state, first.status().state) == ("PENDING", "RUNNING")
    status = second.cancel()
    assert (status.state, status.reason, status.rows.done) == ("CANCELLED", "cancelled", 0)
    wait_for(lambda: third.status().reason == words.format("1 job"), "its place is free", 60)
    assert not runs(third)
    (first.path / "go").touch()
    wait_for(lambda: runs(third), "the last one starts", 60)
    assert third.status().state == "RUNNING"
    ended, begun = first.folder.exit_of(1), third.folder.last_attempt()
    assert ended is not None and begun is not None and begun.started_at >= ended.ended_at - 0.1
    (third.path / "go").touch()
    third.wait(60)
    assert not runs(second)


@pytest.mark.full
def test_a_killed_job_that_waits_is_no_mystery(start: Callable[..., Job]) -> None:
    first, second, third = (start(name=name) for name in ("first", "second", "third"))
    record = read_json(second.folder.supervisor, SupervisorRecord)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    assert second.wait(60).state == "FAILED"
    (first.path / "go").touch()
    wait_for(lambda: runs(third), "the last one starts", 60)
    assert third.cancel().state == "CANCELLED"


def test_two_jobs_get_two_gpus(start: Callable[..., Job], four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    jobs = [start(name=name) for name in ("first", "second", "third")]
    wait_for(lambda: all(map(runs, jobs[:2])), "two run at once", 60)
    assert [(job.path / "runs").read_text() for job in jobs[:2]] == ["1\n", "3\n"]
    wait_for(lambda: "a GPU of this machine: 2 jobs before" in jobs[2].status().reason, "the third waits", 60)
    (jobs[1].path / "go").touch()
    wait_for(lambda: runs(jobs[2]), "the third runs", 60)
    assert (jobs[2].path / "runs").read_text() == "3\n"
    for job in (jobs[0], jobs[2]):
        assert job.cancel().state == "CANCELLED"


@pytest.mark.full
def test_a_job_within_a_job_does_not_wait_for_it(start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    first = start(name="first")
    wait_for(lambda: runs(first), "the first one runs", 60)
    monkeypatch.setenv("VLLM_HPC_JOB_ID", str(first.job_id))
    inner = start(name="inner")
    wait_for(lambda: runs(inner), "the inner one runs", 60)
    for job in (first, inner):
        assert job.cancel().state == "CANCELLED"


def test_without_a_place_for_the_queue_a_job_starts_at_once(
    start: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary" / f"vllm-hpc-{os.getuid()}").mkdir(mode=0o700)
    (tmp_path / "temporary" / f"vllm-hpc-{os.getuid()}" / "local-queue").touch()
    job = start(name="first")
    wait_for(lambda: runs(job), "it runs", 60)
    assert "vllm-hpc: no queue on this machine: [Errno 20] it must be a folder" in job.logs()
    assert job.cancel().state == "CANCELLED"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_thirty_submissions_never_run_thirty_engines(
    start: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_HPC_LOCAL_QUEUE", "2")
    rows = write_input(tmp_path / "rows.jsonl", [{"prompt": str(number)} for number in range(4)])
    given: dict[str, Any] = {"input": str(rows), "scheduler": "local", "tp": 1, "max_tokens": 2, "rehearse": True}
    jobs = [submit(name=f"job-{number}", **given) for number in range(30)]
    most = 0
    statuses = [job.status() for job in jobs]
    while not all(status.is_final for status in statuses):
        most = max(most, sum(status.state == "RUNNING" for status in statuses))
        statuses = [job.status() for job in jobs]
    assert {status.state for status in statuses} == {"COMPLETED"}
    assert most <= 2
    began = [attempt.started_at for job in jobs if (attempt := job.folder.last_attempt()) is not None]
    ended = [record.ended_at for job in jobs if (record := job.folder.exit_of(1)) is not None]
    # The supervisor sweeps up after a script has ended, and only then makes room.
    steps = sorted([(at, 1) for at in began] + [(at, -1) for at in ended])
    assert max(sum(step for _, step in steps[:place]) for place in range(len(steps) + 1)) == 2


@pytest.mark.parametrize("value", ["0", "no", "-1", "1.5", "٣", "99999999", "\x1b[31m"])
def test_a_setting_that_means_nothing_is_refused(
    start: Callable[..., Job], value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_HPC_LOCAL_QUEUE", value)
    with pytest.raises(RequestError, match="VLLM_HPC_LOCAL_QUEUE must be off, or how many jobs"):
        start(name="first")
    assert not Path("runs").exists()
