"""submit, status, logs, cancel and resume through the real kubectl, against the stand-in of the API server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import end, start
from tests.kubernetes.api_server import ApiServer, Fault, kubeconfig
from tests.kubernetes.conftest import Make
from tests.kubernetes.operator import StatusError, terminated, unschedulable, waiting
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobfolder.submissions import last_submission
from vllm_hpc.jobs.find import list_statuses
from vllm_hpc.jobs.job import Job
from vllm_hpc.schedulers import client, scheduler
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.kubernetes import SCHEDULER
from vllm_hpc.schedulers.record_submission import record_submission
from vllm_hpc.spec.errors import FailedError

pytestmark = pytest.mark.programs
KINDS = pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])


def submit(folder: JobFolder) -> str:
    """Submit a job's manifest, and record its id."""
    job_id = SCHEDULER.submit(folder.path / "manifest.yaml")
    record_submission(folder, Submitted("kubernetes", job_id, time.time()))
    return job_id


def state(folder: JobFolder) -> tuple[str, str]:
    status = Job(folder.path).status()
    return status.state, status.reason


@KINDS
def test_a_job_from_its_creation_to_its_end(kind: str, server: ApiServer, make: Make) -> None:
    folder = make(kind=kind)
    job_id = submit(folder)
    assert job_id == f"default/{server.operator.names()[0]}"
    name, operator = job_id.partition("/")[2], server.operator
    assert state(folder) == ("PENDING", "its pods are not made yet")
    operator.pod(name, **unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."))
    assert state(folder)[0] == "PENDING"
    assert state(folder)[1].endswith("has no node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
    operator.pod(name)
    start(folder, job_id=job_id)
    assert state(folder)[0] == "RUNNING"
    operator.condition(name, "Succeeded" if kind == "PyTorchJob" else "Complete")
    operator.pod(name, **terminated(0, "Completed"))
    assert state(folder) == (
        "RUNNING",
        "it ended normally; waiting for its exit record and its last rows to become visible here",
    )
    end(folder)
    assert state(folder)[0] == "FAILED"  # no rank wrote a row


def test_a_resume_gets_a_name_of_its_own(server: ApiServer, make: Make) -> None:
    folder = make()
    first = submit(folder)
    server.operator.condition(first.partition("/")[2], "Failed", "it failed")
    start(folder, job_id=first)
    end(folder, 1)
    assert Job(folder.path).resume() == 3
    second = last_submission(folder)
    assert second not in (None, first) and len(server.operator.names()) == 2
    assert Job(folder.path).status().state == "PENDING"


def test_a_cancelled_job_is_cancelled_when_its_pods_are_gone(run_cli: Cli, server: ApiServer, make: Make) -> None:
    folder = make()
    name = submit(folder).partition("/")[2]
    server.operator.pod(name)
    server.operator.deletes_at_once = False
    done = run_cli("cancel", f"default/{name}")  # its id names it, too
    assert done.code == 0 and "being deleted" in done.out and "check its status" in done.err
    assert any(request.startswith("DELETE ") for request in server.asked)
    server.operator.end_deletion(name)
    assert run_cli("status", folder.path).out.splitlines()[0].endswith("CANCELLED") or state(folder)[0] == "CANCELLED"
    assert "has ended" in run_cli("cancel", folder.path).err


def test_a_job_that_somebody_deleted(server: ApiServer, make: Make) -> None:
    folder = make()
    name = submit(folder).partition("/")[2]
    server.operator.end_deletion(name)
    assert state(folder)[0] == "CANCELLED" and "it never began" in state(folder)[1]
    other = make("other")
    job_id = submit(other)
    start(other, job_id=job_id)
    end(other, 143, "TERM")
    server.operator.end_deletion(job_id.partition("/")[2])
    assert state(other)[0] == "CANCELLED" and "it was deleted" in state(other)[1]


def test_another_cluster_does_not_tell_of_the_job(
    desk: Path, server: ApiServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current context is another one tomorrow, or the context of that name is of another cluster."""
    folder = make()
    submit(folder)
    elsewhere = kubeconfig(desk / "elsewhere", server.url.replace("127.0.0.1", "localhost"))
    server.operator.end_deletion(server.operator.names()[0])
    monkeypatch.setenv("KUBECONFIG", str(elsewhere))
    assert state(folder)[0] == "UNKNOWN" and "was submitted to http://127.0.0.1" in state(folder)[1]
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(desk / "more", server.url, name="another")))
    assert state(folder)[0] == "UNKNOWN" and "stand-in" in state(folder)[1]


@pytest.mark.full
def test_logs_of_a_pod_that_has_no_file(run_cli: Cli, server: ApiServer, make: Make) -> None:
    folder = make()
    name = submit(folder).partition("/")[2]
    server.operator.pod(name, **waiting("ImagePullBackOff", 'Back-off pulling image "vllm:1"'))
    said = run_cli("logs", folder.path)
    assert said.out == "" and "ImagePullBackOff" in said.err
    server.operator.pod(name, **terminated(127))
    server.operator.logs[f"{name}-master-0"] = "bash: not found\n"
    assert run_cli("logs", folder.path).out == "bash: not found\n"
    assert Job(folder.path).logs() == "bash: not found\n"


def test_a_list_asks_little(server: ApiServer, make: Make, desk: Path) -> None:
    folders = [make(f"job-{number}") for number in range(5)]
    submit(folders[0])
    # The others as if submitted: what is asked is the same.
    for number, folder in enumerate(folders[1:]):
        name = f"gone-{number}"
        SCHEDULER.remember(folder, f"default/{name}")
        record_submission(folder, Submitted("kubernetes", f"default/{name}", time.time()))
    server.asked.clear()
    states = [status.state for status in list_statuses(str(desk / "runs"))]
    assert states == ["PENDING", "CANCELLED", "CANCELLED", "CANCELLED", "CANCELLED"]
    assert len([one for one in server.asked if "/pods?" in one]) == 1


@pytest.mark.full
def test_jobs_of_an_earlier_folder_of_that_path_are_not_found(server: ApiServer, make: Make) -> None:
    folder = make()
    name = submit(folder).partition("/")[2]
    server.operator.job(name)["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    assert SCHEDULER.find_job is not None and SCHEDULER.find_job(folder, ()) is None


def test_a_server_that_hangs(server: ApiServer, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for it here."""
    folder = make()
    submit(folder)
    server.faults.append(Fault("/namespaces/", "hang"))
    monkeypatch.setattr(scheduler, "SUBMIT_TIMEOUT_S", 1)
    with pytest.raises(ClientTimeoutError, match="did not answer within 1 s"):
        SCHEDULER.submit(folder.path / "manifest.yaml")
    monkeypatch.setattr(client, "QUERY_TIMEOUT_S", 1)
    status, reason = state(folder)
    assert status == "UNKNOWN" and "did not answer within 1 s" in reason


FAULTS = {
    "forbidden": (StatusError(403, "Forbidden", 'pytorchjobs is forbidden: User "me" cannot create'), "admins"),
    "unauthorized": (StatusError(401, "Unauthorized", "Unauthorized"), "log in to the cluster"),
    "quota": (StatusError(403, "Forbidden", 'pytorchjobs "x" is forbidden: exceeded quota: team'), "ask for less"),
    "internal": (StatusError(500, "InternalError", "Internal error occurred: failed calling webhook"), "failed call"),
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("fault", FAULTS)
def test_a_refusal_says_what_to_do(fault: str, server: ApiServer, make: Make) -> None:
    status, advice = FAULTS[fault]
    server.faults.append(Fault("^POST", "status", status))
    with pytest.raises(ClientError, match=advice) as caught:
        SCHEDULER.submit(make().path / "manifest.yaml")
    assert not isinstance(caught.value, ClientTimeoutError) and "\n" not in str(caught.value)


def test_the_cluster_has_no_operator(
    server: ApiServer, make: Make, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(desk))  # kubectl remembers which kinds there are
    del server.kinds["pytorchjobs"]
    with pytest.raises(ClientError, match="training operator, or set api = 'trainjob'"):
        SCHEDULER.submit(make().path / "manifest.yaml")


def test_a_namespace_that_is_not_there(server: ApiServer, make: Make) -> None:
    with pytest.raises(ClientError, match="choose another namespace"):
        SCHEDULER.submit(make(namespace="nowhere").path / "manifest.yaml")


def test_answers_that_are_no_answers(server: ApiServer, make: Make) -> None:
    folder = make()
    submit(folder)
    server.faults.append(Fault("^GET .*/namespaces/", "garbage"))
    assert state(folder)[0] == "UNKNOWN"
    server.faults[:] = [Fault("/pods", "status", StatusError(403, "Forbidden", "pods is forbidden"))]
    assert state(folder) == (
        "PENDING", "the cluster has it; why it waits is not known, for its pods may not be listed"
    )  # fmt: skip


@pytest.mark.parametrize(
    "planted", ["-n", "default", "a/b/c", "../x/y", "a b/c", "default/x;id", "A/B", "a/" + "b" * 64, "a/b\nc"]
)
def test_only_an_id_reaches_kubectl(planted: str, server: ApiServer, make: Make) -> None:
    folder = make()
    write_json(folder.submitted, Submitted("kubernetes", planted, time.time(), (), folder.uuid))
    server.asked.clear()
    assert state(folder)[0] == "UNKNOWN"
    with pytest.raises(FailedError, match="is no job id"):
        Job(folder.path).cancel()
    assert server.asked == []
