"""``vllm-hpc submit`` with the packaged manifest: through kubectl where there is a cluster, else by hand."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import Cli, Outcome
from tests.crafted import end, progress, rank, result, start, write_lines
from tests.kubernetes.api_server import ApiServer, Fault, kubeconfig
from tests.kubernetes.conftest import Make
from tests.kubernetes.operator import Object, StatusError
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Attempt
from vllm_hpc.jobs.job import Job
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.kubernetes import SCHEDULER

pytestmark = pytest.mark.programs
_PROFILE = """[profiles.kube]
scheduler = "kubernetes"
container.image = "registry.example/vllm:1"
[profiles.kube.kubernetes]
namespace = "team"
{more}
[profiles.kube.kubernetes.volumes.shared]
mount = {mount}
claim = "shared"
"""


def profile(desk: Path, more: str = "") -> None:
    (desk / "vllm-hpc.toml").write_text(_PROFILE.format(more=more, mount=json.dumps(str(desk))))


def submit(run_cli: Cli, *more: str, name: str = "hello") -> Outcome:
    return run_cli("submit", "--rehearse", "--profile", "kube", "--name", name, *more)


def only_job(server: ApiServer) -> Object:
    (name,) = server.operator.names()
    return server.operator.job(name)


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_the_packaged_manifest_is_taken(kind: str, run_cli: Cli, server: ApiServer, desk: Path) -> None:
    profile(desk, f'api = "{kind.lower()}"')
    done = submit(run_cli, "--nodes", "2", "--gpus-per-node", "2", "--tp", "4")
    job = only_job(server)
    assert job["kind"] == kind and job["metadata"]["namespace"] == "team"
    assert done.code == 0, done.err
    assert done.out.split(": ")[0] == f"Submitted hello to kubernetes as team/{job['metadata']['name']}"
    folder = JobFolder(desk / "runs" / "hello")
    assert SCHEDULER.find_job is not None and SCHEDULER.find_job(folder, ()) == f"team/{job['metadata']['name']}"
    if kind == "PyTorchJob":  # the anchor in the manifest has become the workers' template
        replicas = job["spec"]["pytorchReplicaSpecs"]
        assert replicas["Worker"]["template"] == replicas["Master"]["template"]


@pytest.mark.full
def test_the_context_of_the_profile_is_the_jobs(
    run_cli: Cli, server: ApiServer, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with everything that a shell, YAML and JSON would change."""
    name = """it's "a" $(context) \\ é"""
    profile(desk, f"context = {json.dumps(name)}")
    asked = submit(run_cli)
    assert asked.code == 1 and "kubectl has no context" in asked.err and "get-contexts" in asked.err
    assert not (desk / "runs" / "hello").exists() and server.asked == []
    other = kubeconfig(desk / "other", server.url, name=name)
    monkeypatch.setenv("KUBECONFIG", f"{os.environ['KUBECONFIG']}:{other}")
    assert submit(run_cli).code == 0
    assert Job(desk / "runs" / "hello").status().state == "PENDING"
    run_cli("cancel", "hello")
    assert server.operator.names() == []


def no_kubectl(desk: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *more: None if name == "kubectl" else which(name, *more))
    for folder in os.environ["PATH"].split(":"):
        if (Path(folder) / "kubectl").exists():
            monkeypatch.setenv("PATH", ":".join(one for one in os.environ["PATH"].split(":") if one != folder))
    return "there is no kubectl here"


def no_context(desk: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KUBECONFIG", str(desk / "none"))
    return "kubectl has no cluster here (no current context)"


WITHOUT = pytest.mark.parametrize("without", [no_kubectl, no_context], ids=lambda one: one.__name__)


def test_a_kubectl_that_dies_has_submitted_nothing(run_cli: Cli, server: ApiServer, desk: Path) -> None:
    profile(desk)
    (desk / "bin" / "kubectl").write_text("#!/bin/sh\nkill -9 $$\n")
    (desk / "bin" / "kubectl").chmod(0o755)
    done = submit(run_cli)
    assert done.code == 1 and "nothing was submitted" in done.err and not (desk / "runs" / "hello").exists()


@pytest.mark.parametrize("named", ["a\\u0000b", "a\\nb", "x" * 2000, "\\q"])
def test_a_context_of_the_manifest_that_is_none_is_not_the_current_one(
    named: str, server: ApiServer, make: Make, tmp_path: Path
) -> None:
    folder = make()
    manifest = folder.path / "manifest.yaml"
    text = manifest.read_text().replace("  labels:", f'  annotations: {{"vllm-hpc/context": "{named}"}}\n  labels:')
    manifest.write_text(text)
    with pytest.raises(ClientError, match="has no context"):
        SCHEDULER.submit(manifest)
    assert server.asked == []


@WITHOUT
def test_where_there_is_no_cluster_the_user_submits(
    without: object, run_cli: Cli, server: ApiServer, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(desk)
    with monkeypatch.context() as patch:
        why = without(desk, patch)  # type: ignore[operator]
        done = submit(run_cli)
        words = f"not submitted, for {why}: 'kubectl create -f {desk}/runs/hello/manifest.yaml' submits it"
        assert done.code == 0 and words in done.err and done.out == f"Made hello for kubernetes: {desk}/runs/hello\n"
        waited = submit(run_cli, "--wait", name="waited")
        assert waited.code == 1 and "Error: waited is not submitted, so nothing is waited for\n" in waited.err
        status = Job(desk / "runs" / "hello").status()
        assert (
            "If you have: its folder shows it once it runs" in status.reason and "may or may not" not in status.reason
        )
        assert (status.state, status.job_id) == ("UNKNOWN", None) and words in status.reason
        assert json.loads(submit(run_cli, "--json", name="more").out)["job_id"] is None
        # The user has created it elsewhere, and its pods write into the folder.
        folder = JobFolder(desk / "runs" / "hello")
        start(folder, job_id="team/hello-abcde")
        assert Job(folder.path).job_id == "team/hello-abcde"
        if without is no_kubectl:
            folder.heartbeat(0).write_text("{}")
            assert Job(folder.path).status().state == "RUNNING"
            os.utime(folder.heartbeat(0), (1e9, 1e9))
        assert Job(folder.path).status().state == "UNKNOWN"
        finish(folder)
        assert Job(folder.path).status().state == "COMPLETED"
    # Here is one after all, and the other job was not created.
    assert run_cli("resume", "more", "--not-submitted").code == 0
    assert server.operator.names() == [Job(desk / "runs" / "more").job_id.partition("/")[2]]  # type: ignore[union-attr]


def test_who_waits_for_a_job_has_it_submitted_from_here(
    run_cli: Cli, server: ApiServer, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(desk)
    no_context(desk, monkeypatch)
    done = run_cli("doctor", "--on-nodes", "--profile", "kube")
    assert done.code == 1 and "(no current context): run this on a machine that can submit" in done.out
    assert not list((desk / "runs").glob("doctor-*"))


def finish(folder: JobFolder) -> None:
    """What ranks and the script of pod 0 leave."""
    rows = folder.job().rows
    write_lines(folder.shard(0, 1), [result(index) for index in range(rows)])
    progress(folder, rows)
    rank(folder, 0, "ok")
    end(folder)


@pytest.mark.full
def test_a_resume_by_hand(run_cli: Cli, server: ApiServer, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile(desk)
    submit(run_cli)
    job = Job(desk / "runs" / "hello")
    start(job.folder, job_id=job.job_id)
    end(job.folder, 1)
    with monkeypatch.context() as patch:
        no_context(desk, patch)
        done = run_cli("resume", "hello")
        assert done.code == 0 and "kubectl create -f" in done.err and "Submitted" not in done.out
        assert job.status().state == "UNKNOWN"
        assert run_cli("resume", "hello").code == 1  # it may have been submitted
    later = Attempt(attempt=2, job_id="team/hello-later", host="pod", started_at=time.time())
    write_json(job.folder.attempt(2), later)
    assert job.job_id == "team/hello-later"


@pytest.mark.full
def test_a_refusal_leaves_nothing(run_cli: Cli, server: ApiServer, desk: Path) -> None:
    profile(desk)
    words = 'pytorchjobs.kubeflow.org is forbidden: User "me" cannot create resource "pytorchjobs"'
    server.faults.append(Fault("^POST", "status", StatusError(403, "Forbidden", words)))
    done = submit(run_cli)
    assert done.code == 1 and words in done.err and done.err.count("\n") <= 2
    assert not (desk / "runs" / "hello").exists()


@pytest.mark.full
def test_a_name_of_any_letters_is_one_for_kubernetes(run_cli: Cli, server: ApiServer, desk: Path) -> None:
    profile(desk)
    for name in ("Ünïcode Name", "9lives", "a" * 100, "UPPER_case.dot", "-"):
        before = len(server.operator.names())
        done = submit(run_cli, name=name)
        assert (done.code, len(server.operator.names()) - before) in ((0, 1), (2, 0)), done.err
    assert len(server.operator.names()) >= 4


def test_the_answer_is_lost_and_the_job_is_found(run_cli: Cli, server: ApiServer, desk: Path) -> None:
    profile(desk)
    server.faults.append(Fault("^POST", "drop"))
    done = submit(run_cli)
    assert done.code == 1 and "may or may not be submitted" in done.err
    server.faults.clear()
    (name,) = server.operator.names()
    refused = run_cli("resume", "hello", "--not-submitted")
    assert refused.code == 1 and f"kubernetes has the job, as team/{name}" in refused.err
    wrong = run_cli("cancel", "hello", "--job-id", "team/another")
    assert wrong.code == 2 and "no such job of yours" in wrong.err
    assert run_cli("cancel", "hello", "--job-id", f"team/{name}").code == 0
    assert server.operator.names() == []


# What Google's packages of kubectl bring besides; Debian 12's own is 1.20.
_OTHERS = sorted(Path("/usr/lib/google-cloud-sdk/bin").glob("kubectl.1.*"))


@pytest.mark.full
@pytest.mark.parametrize("program", _OTHERS or [None], ids=lambda one: one.name if one else "none")
def test_other_versions_of_kubectl(
    program: Path | None, run_cli: Cli, server: ApiServer, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program is None:
        pytest.skip("there is only one kubectl here")
    (desk / "bin" / "kubectl").symlink_to(program)
    monkeypatch.setenv("HOME", str(desk))
    profile(desk)
    began = time.monotonic()
    assert submit(run_cli).code == 0
    name = server.operator.names()[0]
    job = Job(desk / "runs" / "hello")
    assert job.status().state == "PENDING"
    server.operator.pod(name)
    server.operator.logs[f"{name}-master-0"] = "hello\n"
    assert job.status().state == "RUNNING" and job.logs() == "hello\n"
    assert job.cancel().state == "CANCELLED"
    assert time.monotonic() - began < 60
