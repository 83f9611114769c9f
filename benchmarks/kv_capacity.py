"""Predicted KV cache capacity beside what vLLM itself reports ('GPU KV cache size: N tokens').

Starts a real engine for each model and cut, with dummy weights, under torchrun as a job would, and reads its log.
Run from the repository:
  python benchmarks/kv_capacity.py --gpu h100-80 --max-model-len 4096 Llama-3.1-8B:1:1 Llama-3.1-8B:2:1 Gemma-2-9B:1:1
  python benchmarks/kv_capacity.py --gpu cpu SmolLM2-135M:1:1 TinyLlama-1.1B:1:1      (MODEL:TP:PP; RAM for weights)
Models are those of tests/published_models.py. Aim: within 10 %. Ranks start on the GPUs of this machine, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.published_models import PUBLISHED
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.engine_settings import choose_settings
from vllm_hpc.planner.memory import Fit
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.gpus import GIB, find_gpu
from vllm_hpc.spec.layout import Layout

CONFIGS = {model.name: model.config for model in PUBLISHED}
REPORTED = re.compile(r"KV cache size: ([\d,]+) tokens")
START_TIMEOUT_S = 400


def start_engine(arguments: dict[str, Any]) -> None:
    """One rank: make the engine, and leave."""
    from vllm import EngineArgs, LLMEngine

    LLMEngine.from_engine_args(EngineArgs(**arguments))
    sys.stdout.flush()
    os._exit(0)


def predict(config: dict[str, Any], gpu: str, tp: int, pp: int, given: dict[str, Any]) -> tuple[Fit, dict[str, Any]]:
    shape = read_shape(config, "config.json")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    device = Device(None, "RAM", memory) if gpu == "cpu" else Device(find_gpu(gpu), "--gpu")
    settings = choose_settings(shape, device, None, given, 1.0)
    fit = PlanningProblem(shape, None, device, settings).fit(Layout(1, tp * pp, tp * pp, tp, pp, 1))
    assert fit is not None
    return fit, {**settings.engine, **given}


def measure(config: dict[str, Any], gpu: str, tp: int, pp: int, engine: dict[str, Any], log: Path) -> int | None:
    """What vLLM logs; None where it did not come so far."""
    arguments = {
        "load_format": "dummy", "skip_tokenizer_init": True, "distributed_executor_backend": "external_launcher",
        "tensor_parallel_size": tp, "pipeline_parallel_size": pp, "enforce_eager": gpu == "cpu" and pp == 1, **engine,
    }  # fmt: skip
    if gpu != "cpu" and tp > 1:  # as vllm_hpc/engine/startup/make_engine.py
        arguments["compilation_config"] = {"pass_config": {"fuse_allreduce_rms": False}}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(tp * pp)]
        command = [*torchrun, __file__, "--engine", json.dumps({"model": folder, **arguments})]
        with log.open("w") as stream:
            subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, timeout=START_TIMEOUT_S, check=False,
                env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "INFO"},
            )  # fmt: skip
    found = REPORTED.search(log.read_text(errors="replace"))
    return int(found[1].replace(",", "")) if found else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cuts", nargs="*", metavar="MODEL:TP:PP")
    parser.add_argument("--gpu", default="cpu")
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--engine", type=json.loads)
    asked = parser.parse_args()
    if asked.engine:
        start_engine(asked.engine)
    print("model                  TP PP  weights/GPU  predicted tokens  vLLM's tokens  difference")
    for name, tp, pp in (cut.split(":") for cut in asked.cuts):
        config = {"max_position_embeddings": asked.max_model_len} | CONFIGS[name]
        fit, engine = predict(config, asked.gpu, int(tp), int(pp), {"max_model_len": asked.max_model_len})
        began = time.perf_counter()
        tokens = measure(config, asked.gpu, int(tp), int(pp), engine, asked.logs / f"kv-{name}-{tp}-{pp}.log")
        said = f"{tokens:>13,}  {fit.kv_tokens / tokens - 1:+10.1%}" if tokens else "  no engine (see the log)"
        print(
            f"{name:<22} {tp:>2} {pp:>2}  {fit.rank_weights / GIB:>7.2f} GiB  {fit.kv_tokens:>16,}  {said}"
            f"  ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
