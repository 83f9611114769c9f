"""How fast weights come from files, by the ways that vLLM has: real files of a shape's size, filled with random bytes.

    python -m benchmarks.gpu.load --shape llama-8b --work /tmp/gpu --times 3

One process, one GPU, nothing but the loading: each way in turns, once with the files dropped from the page cache (where
the file system lets one) and once more with them in it. A way whose package is not here is left out.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import spread
from benchmarks.gpu.shapes import make, shape_parser
from benchmarks.one_engine import choose_port, prepare_environment

WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "prefetch": {"safetensors_load_strategy": "prefetch"},
    "eager": {"safetensors_load_strategy": "eager"},
    "fastsafetensors": {"load_format": "fastsafetensors"},
    "runai_streamer": {"load_format": "runai_streamer"},
    "sharded_state": {"load_format": "sharded_state"},
}
FILES = 4


def main() -> None:
    """Write the files, load them in every way, and print a table."""
    given = shape_parser(__doc__, times=3).parse_args()
    prepare_environment()
    choose_port()
    folder = make(given.shape, given.work / given.shape)
    start_world()
    if not (folder / "model.safetensors.index.json").exists():
        began = time.perf_counter()
        write_weights(folder)
        print(f"written in {time.perf_counter() - began:.0f} s", flush=True)
    states = write_sharded_state(folder)
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(given.times):
        for way, options in WAYS.items():
            source = states if way == "sharded_state" else folder
            for cache in ("cold", "warm"):
                if cache == "cold":
                    drop_from_page_cache(source)
                try:
                    took = load(source, options)
                except Exception as error:  # noqa: BLE001 - a way that is not to be had here
                    print(f"{way}: {type(error).__name__}: {str(error)[:200]}", flush=True)
                    break
                seconds.setdefault((way, cache), []).append(took)
                print(f"{way}, {cache}: {took:.1f} s", flush=True)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
    print(f"| way | files | GB | median s (least - most) | GB/s |\n{'| --- ' * 5}|")
    for (way, cache), found in seconds.items():
        print(f"| {way} | {cache} | {size:.1f} | {spread(found)} | {size / statistics.median(found):.1f} |")


def start_world() -> None:
    """vLLM's groups of a world of one."""
    import torch
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        torch.accelerator.empty_cache = lambda: None  # as vLLM's own worker for the CPU does
    else:
        torch.accelerator.set_device_index(0)
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, "env://", 0, current_platform.dist_backend)
        initialize_model_parallel(1, 1)


def load(folder: Path, options: dict[str, Any]) -> float:
    """Seconds from nothing to the model on its device."""
    model, seconds = _load(folder, options)
    del model
    _free()
    return seconds


def _load(folder: Path, options: dict[str, Any]) -> tuple[Any, float]:
    import torch
    from vllm import EngineArgs
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.platforms import current_platform

    config = EngineArgs(str(folder), enforce_eager=True, max_model_len=4096, **options).create_engine_config()
    with set_current_vllm_config(config):
        began = time.perf_counter()
        model = get_model_loader(config.load_config).load_model(vllm_config=config, model_config=config.model_config)
        if not current_platform.is_cpu():
            torch.accelerator.synchronize()
        return model, time.perf_counter() - began


def _free() -> None:
    import torch
    from vllm.platforms import current_platform

    gc.collect()
    if not current_platform.is_cpu():
        torch.accelerator.empty_cache()


def write_weights(folder: Path) -> None:
    """Random bytes under the names and shapes that a checkpoint of this architecture has, in files of equal number."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM
    from vllm.platforms import current_platform

    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).state_dict()
    names = sorted(state)
    device = "cpu" if current_platform.is_cpu() else "cuda"
    where = {}
    for number in range(FILES):
        file = f"model-{number + 1:05}-of-{FILES:05}.safetensors"
        part = {}
        for name in names[number::FILES]:
            shape = state[name].shape
            bits = torch.randint(0, 2**14, tuple(shape), dtype=torch.int16, device=device)  # no infinity among them
            part[name] = bits.view(torch.bfloat16).cpu()
            where[name] = file
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def write_sharded_state(folder: Path) -> Path:
    """The same weights as vLLM holds them, one file a rank."""
    from vllm.model_executor.model_loader import ShardedStateLoader

    states = folder.with_name(f"{folder.name}-sharded")
    if not states.exists():
        fresh = states.with_suffix(".part")
        fresh.mkdir(exist_ok=True)
        model, _ = _load(folder, {})
        ShardedStateLoader.save_model(model, str(fresh))
        del model
        _free()
        for file in folder.iterdir():
            if file.suffix == ".json" and "index" not in file.name:
                (fresh / file.name).write_bytes(file.read_bytes())
        fresh.rename(states)
    return states


def drop_from_page_cache(folder: Path) -> None:
    """Write back and let go of what the kernel holds of these files."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    main()
