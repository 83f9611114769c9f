"""Every folder of jobs/ renders without a network, and what two ranks on a CPU can run does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Cli
from tests.programs.hub_cache import LARGE, SEEDS, make_hub_cache
from tests.programs.seed_script import PROMPTS, answers
from tests.real_jobs import PATIENCE_S
from tests.test_docs import ROOT

pytestmark = pytest.mark.programs

JOBS = ROOT / "jobs"
# Folder -> what its script says of the ranks, with a cluster's scheduler.
LAYOUTS = {
    "quickstart": "1 rank on 1 node: TP 1 x PP 1 x DP 1",
    "basic-tp": "2 ranks on 1 node: TP 2 x PP 1 x DP 1",
    "tp-pp": "4 ranks on 1 node",
    "two-nodes-tp16": "16 ranks on 2 nodes: TP 16 x PP 1 x DP 1",
    "llama-70b-tp4": "4 ranks on 1 node: TP 4 x PP 1 x DP 1",
    "cpu-group": "2 ranks on 1 node: TP 2 x PP 1 x DP 1",
    "device-group": "2 ranks on 1 node: TP 2 x PP 1 x DP 1",
    "direct-model": "2 ranks on 1 node: TP 2 x PP 1 x DP 1",
    "activation-hooks": "2 ranks on 1 node: TP 2 x PP 1 x DP 1",
    "slurm": "16 ranks on 2 nodes",
    "kubernetes": "12 ranks on 3 nodes: TP 4 x PP 1 x DP 3",
}
TWO_RANKS = ("--scheduler", "local", "--nodes", "1", "--gpus-per-node", "2")


def test_every_folder_is_known_here() -> None:
    assert {folder.name for folder in JOBS.iterdir()} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_renders(name: str, run_cli: Cli, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for where in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(where, raising=False)
    monkeypatch.setenv("HOME", str(desk))  # no models there
    shutil.copytree(JOBS / name, desk / "copy")  # nothing of it may need a neighbour
    if name == "kubernetes":
        monkeypatch.chdir(desk / "copy")  # where its profile is
    scheduler = () if name in ("slurm", "kubernetes", "two-nodes-tp16") else ("--scheduler", "slurm")
    told = run_cli("render", desk / "copy", "--name", "first", *scheduler)
    assert told.code == 0, told.err
    assert LAYOUTS[name] in told.out


def test_the_script_of_tp_pp_is_the_seeds() -> None:
    """The one of jobs/slurm differs in what it says: its layout is that of the allocation."""
    seeds = (JOBS / "tp-pp/torchrun_example.py").read_text()
    ours = (JOBS / "slurm/torchrun_example.py").read_text().splitlines()
    changed = [line for line in seeds.splitlines() if line not in ours]
    assert changed == ["    tensor_parallel_size=2,", "    pipeline_parallel_size=2,"]


class Ran(NamedTuple):
    """A job that was run: its folder, what submit printed."""

    folder: Path
    out: str

    def log(self, rank: int) -> str:
        return (self.folder / f"logs/rank-{rank}.log").read_text()

    def texts(self) -> list[str]:
        """The texts of outputs.jsonl, whose prompts are the seed's."""
        rows = [json.loads(line) for line in (self.folder / "outputs.jsonl").read_text().splitlines()]
        return [row["text"] for row in rows]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ranks need to find the models of jobs/ on this machine."""
    return make_hub_cache(tmp_path_factory.mktemp("hf"), SEEDS, LARGE)


def run_job(name: str, variables: dict[str, str], work: Path, *options: str) -> Ran:
    """Submit a folder of jobs/ on two ranks of this machine, and wait."""
    given = ["--job-dir", str(work), "--name", "ran", "--wait"]
    words = [sys.executable, "-m", "vllm_hpc", "submit", str(JOBS / name), *TWO_RANKS, *options, *given]
    environment = {**os.environ, **variables}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    logs = "".join(file.read_text(errors="replace")[-2000:] for file in (work / "ran/logs").glob("*"))
    assert ended.returncode == 0, (ended.stdout, ended.stderr, logs)
    return Ran(work / "ran", ended.stdout)


@pytest.mark.vllm
@pytest.mark.full
class TestOnTwoRanks:
    def test_rows_and_a_script_answer_the_same_prompts(self, variables: dict[str, str], tmp_path: Path) -> None:
        """Sampled in bfloat16, so that texts may differ: each way has its own batches and compiled code."""
        rows = run_job("basic-tp", variables, tmp_path / "rows")
        script = run_job("slurm", variables, tmp_path / "script")
        assert [prompt for prompt, text in answers(script.log(0)) if text] == PROMPTS
        assert answers(script.log(1)) == []
        assert all(rows.texts())

    def test_a_model_that_needs_four_gpus(self, variables: dict[str, str], tmp_path: Path) -> None:
        ran = run_job("llama-70b-tp4", variables, tmp_path, "--tp", "2")
        assert len(ran.texts()) == 2

    def test_cpu_group(self, variables: dict[str, str], tmp_path: Path) -> None:
        ran = run_job("cpu-group", variables, tmp_path)
        results = json.loads((ran.folder / "artefacts/rank-0/results.json").read_text())
        assert [result["prompt"] for result in results] == PROMPTS
        assert "2 results" in ran.log(0)
        assert "2 results" not in ran.log(1)
        assert [f"[Rank {rank}] After barrier" in ran.log(rank) for rank in (0, 1)] == [True, True]

    def test_device_group(self, variables: dict[str, str], tmp_path: Path) -> None:
        ran = run_job("device-group", variables, tmp_path)
        assert json.loads((ran.folder / "artefacts/rank-0/metrics.json").read_text()) == {"rows": 2, "tokens": 32}
        for rank in (0, 1):
            assert f"[Rank {rank}/2] [1, 16] of [2, 32]" in ran.log(rank)

    def test_direct_model(self, variables: dict[str, str], tmp_path: Path) -> None:
        ran = run_job("direct-model", variables, tmp_path)
        log = ran.log(0)
        assert "LlamaForCausalLM" in log
        assert "Number of layers: 4" in log
        # Half of the vocabulary, padded to 1024. On the CPU vLLM packs the weights of layers, and leaves Size([0]).
        assert "model.embed_tokens.weight: torch.Size([512, 256])" in log
        assert "Number of layers" not in ran.log(1)
        assert len(ran.texts()) == 2

    def test_activation_hooks(self, variables: dict[str, str], tmp_path: Path) -> None:
        ran = run_job("activation-hooks", variables, tmp_path)
        for rank in (0, 1):
            shapes = re.findall(r"Layer LlamaDecoderLayer: output shape torch.Size\(\[(\d+), 256\]\)", ran.log(rank))
            # Four layers; a step for the prompts, and one for each token after the first.
            assert len(shapes) % 4 == 0
            assert len(shapes) >= 4 * 16
        assert len(ran.texts()) == 2
