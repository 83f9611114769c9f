"""A model of the Hub that is in the shared cache alone: vLLM's ranks load it, and ask nobody."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.real_jobs import ONE_CORE, PATIENCE_S, check_complete, ends_as, submit_tiny

pytestmark = [pytest.mark.admins, pytest.mark.vllm, pytest.mark.full]

COMMIT = "c" * 40


def test_ranks_load_what_was_fetched(
    tmp_path: Path, tiny: Path, reference: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    repository = tmp_path / "cache/huggingface/hub/models--org--tiny"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    (tmp_path / "local").mkdir()
    (tmp_path / "vllm-hpc.toml").write_text(
        f"[profiles.p]\nscheduler = 'local'\noffline = true\ncache_dir = '{tmp_path}/cache'\n"
        f"scratch = '{tmp_path}/local'\nenv = {{ HF_ENDPOINT = 'http://127.0.0.1:9' }}\n"
    )
    monkeypatch.chdir(tmp_path)
    job = submit_tiny(Path("org/tiny"), tmp_path, profile="p", env=ONE_CORE)
    ends_as(job, "COMPLETED", PATIENCE_S)
    check_complete(job, reference)
    assert list((tmp_path / "local").iterdir()) == []
