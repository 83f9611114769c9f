"""Jobs that 0.1 submitted with a project's umask: others can write to their records. They go on all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import crafted
from tests.recorded import replay
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import EarlierJobFolder, OwnJobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.schedulers.in_script import requeue
from vllm_hpc.schedulers.local import SupervisorRecord, cancel, this_process
from vllm_hpc.spec.errors import FailedError, RequestError

pytestmark = pytest.mark.trust


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """A PBS job of 0.1 whose first attempt has begun, with all of its files open to everybody."""
    folder = JobFolder(replay("pbs", tmp_path).parent)
    crafted.start(folder)
    attempt = folder.attempts()[0]
    write_json(folder.submitted, Submitted("pbs", attempt.job_id, 0.0))
    for path in folder.path.rglob("*"):
        path.chmod(0o777 if path.is_dir() or path.name.startswith("script") else 0o666)
    return folder


def called(module: str, job: JobFolder, *words: str) -> subprocess.CompletedProcess[str]:
    """What a script of 0.1 calls; it is not waited for as long as a walltime."""
    argv = [sys.executable, "-m", f"vllm_hpc.{module}", str(job.path), *words]
    return subprocess.run(argv, cwd=job.path, capture_output=True, text=True, timeout=60)


def test_its_records_are_read_by_its_own_script(job: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Such a rank died, and the job did not run again."""
    with pytest.raises(RequestError, match="others can write to"):
        OwnJobFolder(job.path).job()
    with pytest.raises(RequestError, match="others can write to"):
        requeue.main([str(job.path), "1", "1"])
    earlier = EarlierJobFolder(job.path)
    assert (earlier.job().rows, len(earlier.attempts())) == (200, 1)
    done = called("requeue", job, "1", "1")
    assert (done.returncode, "another attempt would end the same way" in done.stdout) == (1, True), done.stderr
    earlier.note_open()
    said = f"vllm-hpc: others can write to job.json, script.pbs, attempts/1.json and 1 more in '{job.path}': "
    assert capsys.readouterr().out == f"{said}if you trust what they say, 'chmod -R go-w {job.path}'\n"


def test_its_open_script_is_left_to_a_login_node(job: JobFolder) -> None:
    """The nodes do not wait until the walltime is over for it to be mended."""
    done = called("chain", job, "1", "again")
    said = "not submitted again from here: the job's script cannot be used: others can write to"
    assert (done.returncode, said in done.stdout) == (0, True), done.stderr
    assert job.again.exists()


def test_another_users_record_is_not_read(job: JobFolder) -> None:
    if os.geteuid():
        pytest.skip("a file of another user needs root")
    os.chown(job.job_json, 61_999, 61_999)
    with pytest.raises(RequestError, match="belongs to another user"):
        EarlierJobFolder(job.path).job()


def supervisor(job: JobFolder, module: str) -> tuple[subprocess.Popen[bytes], SupervisorRecord]:
    """A process that was started like a supervisor of that name, and its record."""
    code = "import time; print(flush=True); time.sleep(60)"
    argv = [sys.executable, "-c", code, module, "run", str(job.path / "script.sh")]
    process = subprocess.Popen(argv, cwd=job.path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    this = this_process("1-1")
    record = SupervisorRecord(job_id="1-1", host=this.host, pid=process.pid, boot=this.boot, started=started)
    return process, record


@pytest.mark.parametrize("module", ["vllm_hpc.supervisor", "vllm_hpc.schedulers.local.supervisor", "vllm_hpc.else"])
def test_its_running_supervisor_is_cancelled(tmp_path: Path, module: str) -> None:
    job = crafted.make_job(tmp_path / "job")
    process, record = supervisor(job, module)
    with process:
        write_json(job.supervisor, record)
        try:
            if module.endswith("else"):
                with pytest.raises(FailedError, match="is not the supervisor of"):
                    cancel(job, "1-1")
            else:
                cancel(job, "1-1")
                assert process.wait(10) is not None
        finally:
            process.kill()
