"""Fixtures: a stand-in of the API server, the real kubectl configured for it, and jobs of its."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.crafted import make_job
from tests.kubernetes.api_server import ApiServer, kubeconfig, running
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json

MANIFESTS = {
    "PyTorchJob": """apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  generateName: "{name}-"
  namespace: "{namespace}"
  labels:
    app.kubernetes.io/managed-by: "vllm-hpc"
    vllm-hpc/folder: "{folder}"
spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      template: {{"spec": {{"containers": [{{"name": "pytorch", "image": "vllm:1"}}]}}}}
""",
    "TrainJob": """apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  generateName: "{name}-"
  namespace: "{namespace}"
  labels:
    app.kubernetes.io/managed-by: "vllm-hpc"
    vllm-hpc/folder: "{folder}"
spec:
  runtimeRef: {{"name": "torch-distributed"}}
  trainer: {{"image": "vllm:1", "numNodes": 1}}
""",
}
Make = Callable[..., JobFolder]


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    assert shutil.which("kubectl"), "these tests need kubectl: 'make' installs it, with tests/install-debian.sh"
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kubectl keeps which kinds a server has."""
    return tmp_path_factory.mktemp("kubectl-home")


@pytest.fixture
def server(_server: ApiServer, _home: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    """An empty cluster, to which kubectl's current context leads."""
    _server.reset()
    monkeypatch.setenv("HOME", str(_home))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(desk / "kubeconfig", _server.url)))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return _server


@pytest.fixture
def make(desk: Path) -> Make:
    """Makes a job on Kubernetes that is not submitted, with the manifest that its template would have."""

    def made(name: str = "job", kind: str = "PyTorchJob", namespace: str = "default") -> JobFolder:
        folder = make_job(desk / "runs" / name, 3, "kubernetes")
        folder.submitted.unlink()
        write_json(folder.job_json, msgspec.structs.replace(folder.job(), created_at=time.time(), uuid="u" * 32))
        label = hashlib.sha256(str(folder.path).encode()).hexdigest()[:32]
        text = MANIFESTS[kind].format(name=name, namespace=namespace, folder=label)
        (folder.path / "manifest.yaml").write_text(text)
        return folder

    return made
