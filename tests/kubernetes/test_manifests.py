"""Manifests, whole: golden files that a reviewer can read, each of them as the published APIs have it.

After a wanted change of a template: ``VLLM_HPC_UPDATE_GOLDEN=1 pytest tests/kubernetes/test_manifests.py``, and read
the diff.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import published
from tests.kubernetes.local_pods import expand
from tests.real_jobs import require
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.lifecycle import lifecycle_sha256

pytestmark = pytest.mark.programs

UPDATE = "VLLM_HPC_UPDATE_GOLDEN=1 pytest tests/kubernetes/test_manifests.py"
GOLDEN = Path(__file__).parents[1] / "golden" / "kubernetes"
PROFILES = """
[profiles.plain]
scheduler = "kubernetes"
gpus_per_node = 8
container = { image = "vllm/vllm-openai:v0.26.0" }
[profiles.plain.kubernetes]
run_as_user = 1000
run_as_group = 1000
[profiles.plain.kubernetes.volumes.scratch]
claim = "scratch"
mount = "/scratch"
[profiles.plain.kubernetes.volumes.desk]
host_path = "/mnt/desk"
mount = "DESK"
read_only = true

[profiles.all]
extends = "plain"
mem_per_node = "1024G"
cpus_per_node = 64
setup = ["export NCCL_DEBUG=INFO"]
env = { NCCL_SOCKET_IFNAME = "eth0" }
container = { python = "/opt/venv/bin/python", bundle = "/scratch/bundle" }
[profiles.all.kubernetes]
namespace = "ml-team"
context = "prod"
queue = "gpu-queue"
gpu_resource = "amd.com/gpu"
shm = "64Gi"
secrets = { HF_TOKEN = "hugging-face/token", AWS_SECRET_ACCESS_KEY = "s3/key" }
service_account = "vllm"
image_pull_secrets = ["registry"]
node_selector = { "amd.com/gpu.product" = "MI300X" }
tolerations = ["amd.com/gpu:NoSchedule", "dedicated=ml", "spot"]
labels = { team = "nlp" }
annotations = { "example.org/contact" = "Ada <ada@example.org>: \\"hi\\"\\n{{ no }} --- # x" }
[profiles.all.kubernetes.volumes.models]
nfs = "nas.example.org:/export/models"
mount = "/models"
sub_path = "public"
read_only = true

[profiles.v1]
extends = "all"
kubernetes = { priority_class = "high", image_pull_policy = "IfNotPresent" }

[profiles.v2]
extends = "all"
kubernetes = { api = "trainjob" }
"""
MANIFESTS: dict[str, dict[str, Any]] = {
    "1-pytorchjob.yaml": {"profile": "plain", "tp": 1},
    "2-pytorchjob-two-nodes.yaml": {"profile": "v1", "nodes": 2, "tp": 16, "time": "12:00:00", "cpus_per_rank": 8},
    "3-trainjob.yaml": {"profile": "v2", "nodes": 2, "tp": 8, "pp": 2, "time": "12:00:00", "max_requeues": 0},
}
DIGEST = "0" * 64
needs_schemas = pytest.mark.skipif(
    not all(map(find_spec, ("yaml", "kubeflow", "kubeflow_trainer_api"))), reason="needs the tools of make test"
)
Render = Callable[[str], str]


@pytest.fixture
def render(desk: Path, model: Path) -> Render:
    """Render one of the table; the model is in a folder of this test's, of which the golden file says DESK."""
    (desk / "vllm-hpc.toml").write_text(PROFILES.replace("DESK", str(desk)))

    def made(file: str) -> str:
        options = {"name": file.removesuffix(".yaml"), "job_dir": "/scratch/runs", **MANIFESTS[file]}
        script = prepare(str(model), **options).script
        return script.replace(lifecycle_sha256(), DIGEST).replace(str(desk), "/desk")

    return made


@pytest.mark.parametrize("file", MANIFESTS)
def test_the_manifest_is_the_golden_one(render: Render, file: str) -> None:
    manifest, golden = render(file), GOLDEN / file
    if os.environ.get("VLLM_HPC_UPDATE_GOLDEN") == "1":
        golden.write_text(manifest, encoding="utf-8")
    assert manifest == golden.read_text(encoding="utf-8"), f"meant? {UPDATE}"


def test_every_golden_file_is_of_the_table() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(MANIFESTS)


@needs_schemas
@pytest.mark.parametrize("file", MANIFESTS)
def test_the_published_apis_have_all_that_is_in_it(render: Render, file: str) -> None:
    manifest = load(render(file))
    published.check(manifest)
    if manifest["kind"] == "PyTorchJob":
        spec = manifest["spec"]["pytorchReplicaSpecs"]
        nodes = MANIFESTS[file].get("nodes", 1)
        assert [one["replicas"] for one in spec.values()] == ([1, nodes - 1] if nodes > 1 else [1])
        manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["nodeSelectors"] = {}
    else:
        manifest["spec"]["trainer"]["imagePullPolicy"] = "Always"
    with pytest.raises(AssertionError, match=r"nodeSelectors|imagePullPolicy"):
        published.check(manifest)


@needs_schemas
@pytest.mark.parametrize("file", MANIFESTS)
def test_the_script_in_it_is_clean(render: Render, file: str) -> None:
    container = container_of(load(render(file)))
    script = expand(container["args"][0], {"1": "a variable"})
    for command in (["bash", "-n"], ["shellcheck", "--shell=bash", "-"]):
        require(shutil.which(command[0]) is not None, f"not installed: {command[0]}")
        check = subprocess.run(command, input=script, text=True, capture_output=True)
        assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def load(text: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load(text)
    return found


def container_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """What each pod of the job runs."""
    if manifest["kind"] == "TrainJob":
        found: dict[str, Any] = manifest["spec"]["trainer"]
    else:
        found = manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    return found
