"""Offline sites: what a job's ranks will find in the cache, known on the login node without the Hub or its library."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.published_models import PUBLISHED
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.spec.errors import ModelError, RequestError
from vllm_hpc.spec.model_cache import cache_folder_of, cache_variables, find_snapshot, hub_cache
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.user_cache import SHARED, cache_folder

pytestmark = pytest.mark.admins

COMMIT = "b" * 40
HEADER = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
WHOLE = {
    "config.json": json.dumps(PUBLISHED[0].config).encode(),
    "tokenizer.json": b"{}",
    "model.safetensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes(8),
}


@pytest.fixture(autouse=True)
def no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def shared(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared cache of an offline site, whose profile is p."""
    (desk / "vllm-hpc.toml").write_text(
        f"[profiles.p]\nscheduler = 'slurm'\ngpu = 'h100-80'\noffline = true\ncache_dir = '{desk}/$PLACE'\n"
    )
    monkeypatch.setenv("PLACE", "shared")
    return desk / "shared"


def fill(shared: Path, files: dict[str, bytes], ref: str = "main", model: str = "org/m") -> Path:
    repository = shared / "huggingface/hub" / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text(COMMIT)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


def test_a_whole_model_is_planned_and_may_be_submitted(desk: Path, shared: Path, run_cli: Cli) -> None:
    fill(shared, WHOLE)
    done = run_cli("plan", "org/m", "--profile", "p", "--json")
    plan = json.loads(done.out)
    assert (plan["fits"], plan["model"]["parameters"], done.err) == (True, PUBLISHED[0].parameters, "")


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ({}, {}, "'org/m' is not whole in the cache"),
        ({"config.json": WHOLE["config.json"]}, {}, "'org/m' is not whole in the cache"),
        ({**WHOLE, "model.safetensors": b""}, {}, "'org/m' is not whole in the cache"),
        ({**WHOLE, "model.safetensors": WHOLE["model.safetensors"][:-9]}, {}, "'org/m' is not whole in the cache"),
        (WHOLE, {"engine": {"revision": "v2"}}, "'org/m' is not in the cache"),
        (WHOLE, {"engine": {"revision": "../../main"}}, "'org/m' is not in the cache"),
        (WHOLE, {"engine": {"tokenizer": "org/other"}}, "'org/other' is not in the cache"),
        (WHOLE, {"env": {"HF_HUB_CACHE": "/elsewhere"}}, "'org/m' is not in the cache '/elsewhere'"),
    ],
)
def test_what_is_not_there_is_refused_with_what_to_run(
    desk: Path, shared: Path, files: dict[str, bytes], options: dict[str, object], said: str
) -> None:
    fill(shared, files)
    with pytest.raises(ModelError) as error:
        prepare("org/m", profile="p", **options).submit()
    assert said in str(error.value)
    assert "and the nodes are offline: run 'vllm-hpc fetch org/" in str(error.value)
    assert "--profile p" in str(error.value)
    assert not (desk / "runs").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"rehearse": True}, {"env": {"HF_HUB_OFFLINE": "0"}}, {"engine": {"download_dir": "/x"}},
    ],
)  # fmt: skip
def test_what_asks_for_no_cache_is_not_judged(shared: Path, options: dict[str, object]) -> None:
    assert prepare("org/m", profile="p", **options).plan.unready is None


def test_an_adapter_or_a_model_of_a_folder_needs_no_cache(shared: Path, model: Path) -> None:
    assert prepare("model", profile="p").plan.unready is None


@pytest.mark.parametrize(
    ("shell", "env", "cache"),
    [
        ({}, {}, "/shared/huggingface/hub"),
        ({"HF_HOME": "/mine"}, {}, "/mine/hub"),
        ({"HF_HOME": "/mine", "HF_HUB_CACHE": "/models"}, {}, "/models"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, {}, "/old"),
        ({"HF_HOME": "/mine"}, {"HF_HOME": "/given"}, "/given/hub"),
        ({"HF_HUB_CACHE": "/models"}, {"HF_HUB_CACHE": "/given"}, "/given"),
        ({}, {"HF_HOME": "$SCRATCH/hf"}, None),
        ({}, {"HF_HUB_CACHE": "relative"}, None),
    ],
)
def test_the_planner_looks_where_ranks_do(
    monkeypatch: pytest.MonkeyPatch, shell: dict[str, str], env: dict[str, str], cache: str | None
) -> None:
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    request, site = Request(model="org/m", env=env), Profile(cache_dir="/shared")
    found = hub_cache(request, site)
    assert found == (Path(cache) if cache else None)
    told = cache_variables(request, site)
    assert told[SHARED] == "/shared"
    # PBS hands on nothing of the shell: what the script says must do. Where the shell is handed on, it must not win.
    assert "HF_HOME" not in told, "the user's token and the code of models are there, too"
    for inherited in ({}, shell):
        assert cache_folder_of({**inherited, **told, **env}) == found or set(env) == {"HF_HOME"}


def test_a_profile_without_cache_leaves_all_to_the_node() -> None:
    assert cache_variables(Request(model="org/m"), Profile()) == {}
    assert hub_cache(Request(model="org/m"), Profile(setup=("export HF_HOME=/x",))) is None
    with pytest.raises(RequestError, match="cache_dir must be an absolute path"):
        cache_variables(Request(model="org/m"), Profile(cache_dir="here"))


@pytest.mark.parametrize("ref", ["", "../../x", "b" * 39, "b" * 41, "x" * 200, "\0", "b" * 40 + "/.."])
def test_a_damaged_cache_has_no_snapshot(tmp_path: Path, ref: str) -> None:
    fill(tmp_path, WHOLE)
    hub = tmp_path / "huggingface/hub"
    assert find_snapshot(hub, "org/m") == hub / "models--org--m/snapshots" / COMMIT
    assert find_snapshot(hub, "org/m", COMMIT) == hub / "models--org--m/snapshots" / COMMIT
    (hub / "models--org--m/refs/main").write_text(ref)
    assert find_snapshot(hub, "org/m") is None
    assert find_snapshot(hub, "org/m", "/etc/passwd") is None


def test_each_user_has_their_own_compiled_code_in_the_shared_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        monkeypatch.setenv(SHARED, str(shared))
        shared.chmod(0o1777)
        own = shared / f"vllm-hpc-{os.getuid()}"
        assert cache_folder() == own
        assert own.stat().st_mode & 0o777 == 0o700
        shared.chmod(0o777)  # anybody could put another folder in its place
        assert cache_folder() != own
    finally:
        shutil.rmtree(shared)
