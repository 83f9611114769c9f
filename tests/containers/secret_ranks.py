"""Jobs that hand secrets to ranks in an image, and what shows of them; tests/{containers,pbs} run them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hostile.test_secrets import HF, WORD
from tests.real_jobs import ONE_CORE, PATIENCE_S, ends_as, started, submit_tiny
from tests.secret_jobs import check_hidden
from vllm_hpc import Job

# No shape and no name tells that it is one, and an image of the stand-ins has its own.
LICENSE = "open sesame '1' $(id) \\"
# What the ranks must have: the profile's secrets, one of --env NAME, and what the profile's setup has made of them.
SECRETS = {
    "HF_TOKEN": HF, "SITE_LICENSE": LICENSE, "SITE_LOGIN": WORD,
    "LICENSE_SERVER": f"27000@{LICENSE}", "HUB_TOKEN": HF,
}  # fmt: skip
SETUP = ['export LICENSE_SERVER="27000@$SITE_LICENSE"', 'export HUB_TOKEN="$HF_TOKEN"']


def run_with_secrets(work: Path, monkeypatch: pytest.MonkeyPatch, container: dict[str, Any], **options: Any) -> Job:
    """Run a job with them in that container, and look at its ranks, files and processes."""
    has_file = options["scheduler"] == "pbs" or options.pop("export_environment", True) is False
    fields = ", ".join(f"{key} = {value!r}" for key, value in container.items())
    setup = [*SETUP, f'export PATH={work}/bin:"$PATH"']
    lines = [f"container = {{ {fields} }}", 'secrets = ["HF_TOKEN", "SITE_LICENSE"]', f"setup = {setup}"]
    if has_file and options["scheduler"] == "slurm":
        lines.append("export_environment = false")
    (work / "vllm-hpc.toml").write_text("\n".join(["[profiles.p]", *lines]) + "\n")
    monkeypatch.chdir(work)
    for name in ("HF_TOKEN", "SITE_LICENSE", "SITE_LOGIN"):
        monkeypatch.setenv(name, SECRETS[name])
    nodes = options.get("nodes", 1)
    job = submit_tiny(
        None, work, profile="p", tp=max(nodes, 2), gpus_per_node=max(nodes, 2) // nodes, max_requeues=1,
        env={**ONE_CORE, "SITE_LOGIN": None}, rehearse={"tokens_per_s": 80}, **options,
    )  # fmt: skip
    assert job.folder.passed.exists() == has_file
    started(job)
    check_hidden(job)
    check_no_trace(job)
    check_ranks(job, max(nodes, 2))
    ends_as(job, "COMPLETED", PATIENCE_S)
    check_hidden(job)
    check_no_trace(job)
    assert not job.folder.passed.exists()
    return job


def check_ranks(job: Job, number: int) -> None:
    """Each rank has all of them, and none twice."""
    found = [one.environ() for one in psutil.process_iter(["cmdline"]) if is_rank(one.info["cmdline"] or [], job)]
    assert len(found) == number
    for environment in found:
        assert {name: environment.get(name) for name in SECRETS} == SECRETS
        assert [name for name in environment if name.startswith("VLLM_HPC_ENV_")] == []


def is_rank(words: list[str], job: Job) -> bool:
    return words[-2:] == ["rank", str(job.path)] and "torch.distributed.run" not in words


def check_no_trace(job: Job) -> None:
    """The secret that does not look like one is in no file of the job, and in the arguments of no process."""
    files = [path for path in job.path.rglob("*") if path.is_file() and path != job.folder.passed]
    assert [path for path in files if b"sesame" in path.read_bytes()] == []
    others = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"]) if one.pid != os.getpid()]
    assert [words for words in others if any(LICENSE in word or WORD in word for word in words)] == []
