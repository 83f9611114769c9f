"""LoRA adapters: one made here, run beside the base model, equal to plain vLLM and, over two ranks, to one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_run import Outcome, run
from tests.real_jobs import ENGINE, GREEDY, PATIENCE_S, submit_tiny
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.lora import Adapter, find_adapters

pytestmark = [pytest.mark.vllm, pytest.mark.full]

MAKE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
torch.manual_seed(seed)
weights = {}
for layer in range(4):
    for name, width in (("q_proj", 256), ("v_proj", 128)):
        base = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        weights[f"{base}.lora_A.weight"] = torch.randn(4, 256)
        weights[f"{base}.lora_B.weight"] = torch.randn(width, 4)
save_file(weights, folder / "adapter_model.safetensors")
config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
(folder / "adapter_config.json").write_text(json.dumps(config))
"""
TEXT = "def function_1(folder):"
CHOICES = ["first", None, "second", "first", None]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, ...]:
    work = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("first", "second")):
        subprocess.run([sys.executable, "-W", "ignore", "-c", MAKE, str(work / name), str(seed)], check=True)
    return find_adapters([f"first={work / 'first'}", str(work / "second")])


@pytest.fixture(scope="module")
def outcome(tiny: Path, adapters: tuple[Adapter, ...], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    rows = [
        *({"prompt": TEXT, "lora": choice} for choice in CHOICES),
        {"prompt": TEXT},
        {"prompt": TEXT, "lora": "third"},
        {"prompt": TEXT, "batch": {"custom_id": "a", "url": "/v1/completions", "model": "second"}},
    ]
    plain = {"call": "generate", "prompt": TEXT}
    return run(
        tmp_path_factory.mktemp("lora"),
        model=str(tiny),
        engine=ENGINE,
        sampling=GREEDY,
        adapters=adapters,
        rows=rows,
        reference=[plain, {**plain, "lora": "first"}, {**plain, "lora": "second"}],
    )


def test_rows_choose_their_adapter(outcome: Outcome, reference: list[str]) -> None:
    base, first, second = (one["text"] for one in outcome.reference)
    assert len({base, first, second}) == 3
    assert base == reference[1]  # of an engine that knows no adapters: TEXT is the second of PROMPTS
    texts = {None: base, "first": first, "second": second}
    assert [row["text"] for row in outcome.rows[:5]] == [texts[choice] for choice in CHOICES]
    assert outcome.rows[0]["lora"] == "first"
    assert outcome.rows[5]["text"] == base  # of several, none is chosen where a row names none
    assert "no adapter 'third'" in outcome.rows[6]["error"]["message"]
    assert outcome.rows[7]["line"]["response"]["body"]["choices"][0]["text"] == second


def test_one_adapter_is_for_every_row(
    outcome: Outcome, tiny: Path, adapters: tuple[Adapter, ...], tmp_path: Path
) -> None:
    rows: list[Row] = [{"prompt": TEXT}, {"prompt": TEXT, "lora": None}, {"prompt": TEXT, "lora": "first"}]
    job = submit_tiny(tiny, tmp_path, rows, tp=2, lora=[f"first={adapters[0].path}"])
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()
    base, first, _ = (one["text"] for one in outcome.reference)
    assert [row["text"] for row in job.results()] == [first, base, first]
