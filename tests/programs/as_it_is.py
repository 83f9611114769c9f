"""A script as a user has it, for test_script_ranks.py: it checks what torchrun would give it, and computes a sum."""

# ruff: noqa: E402
import os
import sys

assert not {"torch", "vllm", "jinja2"} & sys.modules.keys(), "a script sets variables before it imports them"
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import torch
import torch.distributed as dist
from sibling import NAME  # type: ignore[import-not-found] # its test makes it

if __name__ == "__main__":
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    assert torch.get_num_threads() == 1
    for again in range(2):  # a process group may be ended, and another made
        dist.init_process_group("gloo")
        total = torch.tensor([rank + 1.0])
        dist.all_reduce(total, group=dist.new_group(range(size)))
        print(f"sum {again}: {total.item()} of {dist.get_world_size()}")
        print(f"groups are made by {dist.new_group.__module__}")
        dist.destroy_process_group()
    Path(os.environ["VLLM_HPC_ARTEFACTS"], "sum.txt").write_text(str(total.item()))
    print("words:", sys.argv, __file__, NAME, Path.cwd())
    print("local:", os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"])
    print("no end of line", end="")
