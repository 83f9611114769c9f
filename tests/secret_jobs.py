"""Jobs that take a profile's secret and one of --env NAME, and what shows of them; tests/{pbs,slurm,local} run them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.hostile.test_secrets import HF, WORD
from tests.real_jobs import ONE_CORE, submit_tiny
from vllm_hpc import Job

# What stands before torchrun on each node: it notes what the ranks inherit.
WRAPPER = 'echo "$(stat -c %a "$TMPDIR") $TMPDIR $HF_TOKEN $SITE_LOGIN" >> "$1"; shift; exec "$@"'


def note_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: str = "") -> None:
    """Set them, and make profiles that take them, with these keys. Each node notes in a file what its ranks have."""
    (tmp_path / "note.sh").write_text(WRAPPER)
    words = [f'"{word}"' for word in ("sh", tmp_path / "note.sh", tmp_path / "seen")]
    scratch = f'scratch = "{tmp_path}/${{NOWHERE_SET:-scratch}}"\n'
    (tmp_path / "scratch").mkdir()
    for name, more in (("open", keys), ("closed", f"{keys}export_environment = false\n")):
        profile = f'[profiles.{name}]\nsecrets = ["HF_TOKEN"]\nwrapper = [{", ".join(words)}]\n{more}{scratch}'
        with (tmp_path / "vllm-hpc.toml").open("a") as file:
            file.write(profile)
    monkeypatch.setenv("HF_TOKEN", HF)
    monkeypatch.setenv("SITE_LOGIN", WORD)
    monkeypatch.chdir(tmp_path)


def check_seen(tmp_path: Path, nodes: int) -> None:
    """What each node's ranks had: the secrets, and a folder of their own for temporary files, which is gone."""
    lines = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert [(mode, *secrets) for mode, _, *secrets in lines] == [("700", HF, WORD)] * nodes
    folders = {Path(folder) for _, folder, *_ in lines}
    assert {folder.parent for folder in folders} == {tmp_path / "scratch"}
    assert len(folders) == nodes
    assert list((tmp_path / "scratch").iterdir()) == []


def check_hidden(job: Job) -> None:
    """No file of the job but state/passed has them, nor have the arguments of any process."""
    files = [path for path in job.path.rglob("*") if path.is_file() and path != job.folder.passed]
    assert not [path for path in files if HF.encode() in path.read_bytes() or WORD.encode() in path.read_bytes()]
    lines = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if HF in line]


def submit_with_secrets(tmp_path: Path, scheduler: str, profile: str, nodes: int = 1) -> Job:
    return submit_tiny(
        None, tmp_path, scheduler=scheduler, profile=profile, nodes=nodes, tp=nodes, gpus_per_node=1, max_requeues=1,
        env={**ONE_CORE, "SITE_LOGIN": None}, rehearse={"tokens_per_s": 40},
    )  # fmt: skip
