"""The resolved job: request and profile merged once, and where each value is from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests import recorded
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JOB_RECORD_VERSION
from vllm_hpc.jobs.find import list_jobs
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.planner.queues import plan_only, resolve_options
from vllm_hpc.spec.errors import JobNotFoundError
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import FILLED, fill

RECORDED = Path(recorded.__file__).parent / "0.1"

PROFILE = """[profiles.alpine]
scheduler = "slurm"
partition = "of the profile"
account = "of the profile"
time = "1:00:00"
env = { A = "profile", B = "profile" }
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm-hpc.toml").write_text(PROFILE)
    job = tmp_path / "job"
    job.mkdir()
    (job / "job.toml").write_text('rehearse = true\naccount = "of job.toml"\nqos = "low"\nprofile = "alpine"\n')
    return job


def test_each_value_and_where_it_is_from(desk: Path) -> None:
    job, definition = resolve_options("job", {"qos": "high", "env": {"B": "option"}})
    request = job.request
    assert (request.partition, request.account, request.qos, request.mem) == (
        "of the profile", "of job.toml", "high", None,
    )  # fmt: skip
    assert request.env == {"A": "profile", "B": "option"}
    assert (job.scheduler, job.scheduler_reason) == ("slurm", "from profile 'alpine'")
    assert (job.launcher, job.is_native, job.device) == ("torchrun", False, None)
    assert definition == Path("job/job.toml").read_bytes()
    assert {key: job.origin(key) for key in ("partition", "account", "qos", "env", "mem", "profile")} == {
        "partition": "profile 'alpine'", "account": "job/job.toml", "qos": "--qos", "env": "--env",
        "mem": "the default", "profile": "job/job.toml",
    }  # fmt: skip
    assert [job.is_asked(key) for key in ("partition", "account", "qos", "mem")] == [False, True, True, False]


def test_the_variable_names_the_profile_where_nobody_does(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HPC_PROFILE", "alpine")
    job, _ = resolve_options(None, {"rehearse": True})
    assert (job.request.partition, job.origin("profile")) == ("of the profile", "$VLLM_HPC_PROFILE")


@pytest.mark.parametrize("key", FILLED)
def test_every_key_of_both_is_filled_in(key: str) -> None:
    values = {"time": "2:00", "mem": "64G", "cpus_per_rank": 3, "env": {"A": "b"}, "template_dir": "/x"}
    values |= {"engine": {"a": 1}, "sampling": {"top_k": 1}, "max_requeues": 3, "drain_lead": 60}
    value = values.get(key, "a")
    filled = fill(Given(Request(model="demo", profile="p")), msgspec.convert({key: value}, Profile))
    assert getattr(filled.request, key) == value
    assert filled.origins[key] == "profile 'p'"
    assert all(name.split(".")[0] == key for name in filled.origins)


def test_what_is_tried_instead_leaves_the_rest(desk: Path) -> None:
    job, _ = resolve_options("job", {})
    other = job.asking(tp=4)
    assert (other.request.tp, other.request.account, other.site) == (4, "of job.toml", job.site)
    assert job.request.tp is None


def test_the_job_record_says_where_values_are_from(desk: Path) -> None:
    prepared = prepare("job", name="first")
    assert prepared.request.account == "of job.toml"
    assert prepared.job.origins["partition"] == "profile 'alpine'"


def test_what_the_profile_gives_is_not_called_an_unused_option(desk: Path) -> None:
    reasons = " ".join(plan_only("job", scheduler="local", mem="64G").reasons)
    assert "--account, --qos, --mem: not used by the local scheduler" in reasons


def test_a_job_of_0_1_is_read_and_one_of_a_later_version_is_not(tmp_path: Path) -> None:
    old = JobFolder(RECORDED / "slurm").job()
    assert (old.version, old.origins) == (1, {})
    raw = msgspec.json.decode((RECORDED / "slurm" / "job.json").read_bytes())
    later = tmp_path / "later" / "job.json"
    later.parent.mkdir()
    later.write_bytes(msgspec.json.encode({**raw, "version": JOB_RECORD_VERSION + 1, "request": {"made": "anew"}}))
    with pytest.raises(JobNotFoundError, match="submitted by a newer vllm-hpc: use that version, or upgrade"):
        JobFolder(later.parent).job()
    assert list_jobs(str(tmp_path)) == []
