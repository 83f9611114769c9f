"""Fixtures of the fast tests: a working directory cut off from this machine's site, and the command line in-process."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

from tests.campaign.rows import decided, make_rows, with_answers
from tests.crafted import make_folder
from tests.plain_vllm import ask_plain_vllm
from tests.real_jobs import GREEDY, PROMPTS, make_model, rehearsed_texts
from tests.tiers import Tiers
from vllm_hpc.cli import main
from vllm_hpc.rows.row import Row


def pytest_configure(config: pytest.Config) -> None:
    """Hold the time limits of markers. Schedulers are asked anew each time: stand-ins change their minds at once.

    Interrupts are Python's, also where a shell has them ignored, as it does for what runs in its background.
    """
    os.environ["VLLM_HPC_ASK_EVERY_S"] = "0"
    config.pluginmanager.register(Tiers(), "vllm-hpc-tiers")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In make test all of vLLM is two workers', for its layouts and imports, and for the rest: they take as long.

    What starts ranks comes first, so that the unit tests fill the waits at its end.
    """
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("slurm", "pbs", "ranks", "vllm")))
    for item in items:
        if item.get_closest_marker("vllm") and not item.get_closest_marker("full"):
            apart = any(word in item.nodeid for word in ("slurm/", "pbs/", "test_campaign"))
            item.add_marker(pytest.mark.xdist_group("vllm on clusters" if apart else "vllm"))


# Machines are shared and slow: an example that takes long is no failure.
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")

# A Slurm that takes every script: it keeps what it was sent, and the test sees that it was called.
FAKE_SBATCH = """#!/bin/sh
for script; do :; done
cp "$script" "$(dirname "$0")/received"
echo 4711
"""


# With it the twelve kills of the tests are of all kinds, two of each job's while it generates.
CAMPAIGN_SEED, _CAMPAIGN_ROWS = 37, 500
# Of a campaign on vLLM in make test.
FEW_ROWS = 120


# The two that ``subject`` can be, for tests that add cases of their own.
REHEARSED = pytest.param(False, id="rehearsed", marks=pytest.mark.ranks)
ON_VLLM = pytest.param(True, id="vllm", marks=[pytest.mark.vllm, pytest.mark.full])


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


# As where there is a driver and no GPU.
NO_GPU = """#!/bin/sh
echo No devices were found
exit 6
"""


@pytest.fixture(scope="session", autouse=True)
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No profile and no cache of whoever runs the tests, no GPU, no queue: as for a new user on a plain node."""
    smi = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    smi.write_text(NO_GPU)
    smi.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_STATE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        patch.delenv("VLLM_HPC_PROFILE", raising=False)
        patch.setenv("VLLM_HPC_LOCAL_QUEUE", "off")  # no test waits for the jobs of another, or of another run
        yield


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a fake sbatch before the real one, and no profiles of the user or the site."""
    folder = tmp_path / "desk"
    sbatch = folder / "bin" / "sbatch"
    sbatch.parent.mkdir(parents=True)
    sbatch.write_text(FAKE_SBATCH)
    sbatch.chmod(0o755)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # compiled templates: nobody counts them
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("VLLM_HPC_PROFILE", raising=False)
    monkeypatch.delenv("SLURM_CONF", raising=False)  # of a cluster that is down, it holds every client up for a minute
    return folder


@pytest.fixture
def homeless(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home directory, as in some containers; to be asked for last."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(Path, "home", home)


@pytest.fixture
def model(desk: Path) -> Path:
    """A model folder, ./model: a config.json, and the least that counts as weights and tokenizer."""
    return make_folder(desk / "model")


@pytest.fixture
def run_cli(desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run ``vllm-hpc ARGS`` in this process; an exception that main() lets through fails the test."""

    def run(*args: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["vllm-hpc", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        out, err = capsys.readouterr()
        assert isinstance(exit_info.value.code, int)
        return Outcome(exit_info.value.code, out, err)

    return run


@contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder of all workers of this run, for one of them at a time: who comes first fills it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _finished(folder: Path, made: Path) -> Path:
    (folder / "whole").touch()
    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that real runs use."""
    if not all(find_spec(name) for name in ("torch", "transformers", "tokenizers")):
        pytest.skip("needs torch, transformers and tokenizers")
    with shared_folder(tmp_path_factory, "model") as folder:
        model = folder / "tiny"
        return model if (folder / "whole").exists() else _finished(folder, make_model(model))


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny mixture of experts."""
    with shared_folder(tmp_path_factory, "mixture") as folder:
        model = folder / "tiny"
        return model if (folder / "whole").exists() else _finished(folder, make_model(model, "--experts"))


@pytest.fixture(scope="session")
def mixtures_answers(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What plain vLLM answers to PROMPTS with that."""
    with shared_folder(tmp_path_factory, "reference-of-mixture") as folder:
        found: list[str] = ask_plain_vllm(mixture, folder / "reference.json", PROMPTS, [], GREEDY)["alone"]
        return found


@pytest.fixture(scope="session")
def plain(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What plain vLLM answers to PROMPTS ("alone"), and to the rows of a short campaign ("together")."""
    few = make_rows(FEW_ROWS, CAMPAIGN_SEED)
    with shared_folder(tmp_path_factory, "reference") as folder:
        return ask_plain_vllm(tiny, folder / "reference.json", PROMPTS, few, GREEDY)


@pytest.fixture(scope="session")
def reference(plain: dict[str, Any]) -> list[str]:
    """What plain vLLM answers to PROMPTS."""
    found: list[str] = plain["alone"]
    return found


@pytest.fixture(scope="session")
def few_expected(plain: dict[str, Any]) -> list[tuple[Row, str]]:
    """The rows of a short campaign, and plain vLLM's answers to them."""
    return decided(make_rows(FEW_ROWS, CAMPAIGN_SEED), plain["together"])


@pytest.fixture(params=[REHEARSED, ON_VLLM])
def subject(request: pytest.FixtureRequest) -> Path | None:
    """What the job of a test runs: nothing but the chain (a rehearsal, None), and in test-full the tiny model."""
    return request.getfixturevalue("tiny") if request.param else None


@pytest.fixture
def answers(subject: Path | None, request: pytest.FixtureRequest) -> list[str]:
    """The right answers to PROMPTS: plain vLLM's, or a rehearsal's."""
    rehearsed = rehearsed_texts(PROMPTS, int(GREEDY["max_tokens"]))
    found: list[str] = request.getfixturevalue("reference") if subject else rehearsed
    return found


@pytest.fixture
def expected(subject: Path | None, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Row, str]]:
    """The rows of a campaign, and the right answers to them: plain vLLM's (made once a session), or a rehearsal's."""
    return with_answers(subject, make_rows(_CAMPAIGN_ROWS, CAMPAIGN_SEED), tmp_path_factory.getbasetemp())
