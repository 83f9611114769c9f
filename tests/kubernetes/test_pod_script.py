"""What the script of pods does around the ranks: here a site's template starts something else in their place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.local_pods import Pods, profile_of
from tests.kubernetes.test_manifests import needs_schemas
from vllm_hpc import Job, submit

pytestmark = [pytest.mark.programs, needs_schemas]

Make = Callable[..., tuple[Job, Pods]]
# A site may have its own line between those of lifecycle.sh.
TEMPLATE = """{%% extends "packaged/kubernetes.yaml.j2" %%}{%% block rendezvous %%}{%% endblock %%}
{%% block launch %%}%s{%% endblock %%}"""


@pytest.fixture
def make(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a job whose pods run a line of shell, and its pods."""
    monkeypatch.setenv("KUBECONFIG", str(desk / "none"))
    (desk / "rows.jsonl").write_text('{"prompt": "a"}\n')

    def made(line: str, **options: Any) -> tuple[Job, Pods]:
        (desk / "vllm-hpc.toml").write_text(profile_of(tmp_path))
        (desk / "site").mkdir()
        (desk / "site" / "kubernetes.yaml.j2").write_text(TEMPLATE % line)
        with pytest.warns(UserWarning, match="not submitted"):
            job = submit(input="rows.jsonl", profile="pods", rehearse={}, template_dir="site", **options)
        return job, Pods(job.folder.path)

    return made


def test_a_job_that_fails_is_not_started_again_whatever_its_code(make: Make) -> None:
    job, pods = make("exit 137")
    assert pods.start(0).wait(30) == 1
    ended = job.folder.exit_of(1)
    assert ended is not None
    assert (ended.exit_code, ended.cause) == (137, "exit")
    assert pods.start(0).wait(30) == 1
    assert len(job.folder.attempts()) == 1
    assert "pod 0 has nothing to do: the job has ended" in job.folder.scheduler_log.read_text()


@pytest.mark.full
def test_starts_are_counted_whoever_asked_for_them(make: Make) -> None:
    job, pods = make("kill -KILL $$; sleep 9", max_requeues=1)
    for attempt in (1, 2):
        assert pods.start(0).wait(30) == -9
        assert len(job.folder.attempts()) == attempt
    assert pods.start(0).wait(30) == 1
    assert "pod 0 has been started 3 times (--max-requeues 1)" in job.folder.scheduler_log.read_text()


@pytest.mark.full
def test_the_time_of_a_job_began_with_its_first_start(make: Make) -> None:
    line = 'trap - TERM; until [ -e "$job/control/drain-$attempt" ]; do sleep 0.1; done; exit 1'
    job, pods = make(line, time="1:00:00")
    first = {"attempt": 1, "task": 0, "job_id": f"default/{pods.name}", "host": "x", "started_at": 1.5}
    (job.folder.path / "attempts" / "1.json").write_text(json.dumps(first))
    pods.start(0).wait(30)  # its time is over long ago
    assert job.folder.drain_attempt(2).exists()
    assert "draining" in job.folder.scheduler_log.read_text()


def test_a_pod_without_the_operators_variables_says_so(make: Make, desk: Path) -> None:
    make("exit 0")
    (desk / "site" / "kubernetes.yaml.j2").write_text('{% extends "packaged/kubernetes.yaml.j2" %}')
    with pytest.warns(UserWarning, match="not submitted"):
        job = submit(input="rows.jsonl", profile="pods", rehearse={}, template_dir="site", nodes=2, tp=2)
    pods = Pods(job.folder.path)
    whole = pods.environment
    pods.environment = lambda number: {  # type: ignore[method-assign]
        key: value for key, value in whole(number).items() if "MASTER" not in key
    }
    assert pods.start(0).wait(30) == 1
    assert "no MASTER_ADDR and MASTER_PORT, which Kubeflow's operator sets" in job.folder.scheduler_log.read_text()


@pytest.mark.full
def test_a_pod_told_to_end_may_be_started_again(make: Make) -> None:
    job, pods = make('touch "$job/here"; sleep 60')
    process = pods.start(0)
    while not (job.folder.path / "here").exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(30) >= 128
    ended = job.folder.exit_of(1)
    assert ended is not None
    assert ended.cause == "TERM"
    assert not list(job.folder.path.glob("state/over-*"))
