"""Programs on a real vLLM on the CPU, TP=2: hooks, the model, the groups, and the seed's own code in run(ctx)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.crafted import layout
from tests.programs.by_hand import Ended, file_program, make_job, run_ranks, written
from tests.real_jobs import ENGINE, ONE_CORE, PATIENCE_S, submit_tiny
from vllm_hpc import submit
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.program import Program

pytestmark = [pytest.mark.programs, pytest.mark.vllm]

ROWS: list[Row] = [{"prompt": [5 + number, 6, 7, 8]} for number in range(6)]
MORE: dict[str, Any] = {"engine": {**ENGINE, "enforce_eager": True}, "sampling": {"temperature": 0.0, "max_tokens": 5}}

HOOKS = '''
import json
import torch
import torch.distributed as dist

class Norms:
    """Norms of what each layer gives: of all ranks' tokens, and of this rank's own part of a matrix."""

    needs_hooks = True

    def setup(self, ctx):
        self.calls, self.shapes, self.last = 0, set(), 0.0
        self.hooks = [layer.register_forward_hook(self.note) for layer in ctx.layers]
        runner = ctx.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        self.found = {
            "is_seeds_model": runner.model is ctx.model, "is_seeds_layers": ctx.layers == list(ctx.model.model.layers),
            "modules": sum(1 for name, _ in ctx.model.named_modules() if name.endswith("mlp.gate_up_proj")),
            "shards": [str(shard) for shard in ctx.parameters()],
            "groups": [[dist.get_world_size(one), dist.get_rank(one)] for one in (ctx.cpu_group, ctx.device_group)],
            "device": ctx.device, "sum": ctx.all_reduce({"rank": ctx.rank}), "llm": type(ctx.llm).__name__,
        }
        embedding = next(shard for shard in ctx.parameters() if shard.name == "model.embed_tokens.weight")
        squares = embedding.parameter.float().pow(2).sum()
        self.found["norm"] = [squares.sqrt().item(), ctx.all_reduce(squares).sqrt().item()]
        ctx.barrier(60)

    def note(self, layer, args, output):
        self.calls += 1
        self.shapes.add(tuple(output[0].shape))
        self.last = output[0].float().norm()

    def on_output(self, ctx, row):
        row["norm"] = ctx.all_reduce(self.last, "mean").item()
        row["calls"] = ctx.all_reduce(self.calls, "min"), ctx.all_reduce(self.calls, "max")

    def teardown(self, ctx):
        for hook in self.hooks:
            hook.remove()
        self.found |= {"calls": self.calls, "shapes": sorted(self.shapes)}
        (ctx.artefacts / "found.json").write_text(json.dumps(self.found))
'''


def job_of(tmp_path: Path, text: str, name: str, model: Path, **more: Any) -> JobFolder:
    facts = {key: more.pop(key) for key in ("drives_engine", "needs_hooks") if key in more}
    program = file_program(tmp_path / "code" / "mine.py", name, text, **facts)
    rows, shape = more.pop("rows", ROWS), more.pop("shape", layout(2))
    return make_job(tmp_path / "job", program, rows, shape, model=model, **{**MORE, **more})


def found_by(job: JobFolder, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.artefacts / f"rank-{rank}" / "found.json").read_text())
    return found


def test_hooks_groups_and_the_parts_of_the_model_on_every_rank(tiny: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, HOOKS, "Norms", tiny, needs_hooks=True)
    ended = run_ranks(job).ok()
    ranks = [found_by(job, rank) for rank in (0, 1)]
    for rank, found in enumerate(ranks):
        assert found["groups"] == [[2, rank], [2, rank]]
        assert (found["is_seeds_model"], found["is_seeds_layers"], found["modules"]) == (True, True, 4)
        assert (found["device"], found["sum"], found["llm"]) == ("cpu", {"rank": 1}, "LLM")
        shards = dict(line.split(": ", 1) for line in found["shards"])
        half = f"{rank * 512}:{rank * 512 + 512}"
        assert shards["model.embed_tokens.weight"] == f"512x256, {half} of 1024 in dimension 0"
        layer = "model.layers.3"
        # 8 heads of 32, and 4 of keys and of values: half of each.
        parts = [
            f"{begin + rank * here}:{begin + rank * here + here}" for begin, here in ((0, 128), (256, 64), (384, 64))
        ]
        assert shards[f"{layer}.self_attn.qkv_proj.weight"].endswith(f", {', '.join(parts)} of 512 in dimension 0")
        assert shards[f"{layer}.mlp.down_proj.weight"].endswith(
            f", {rank * 256}:{rank * 256 + 256} of 512 in dimension 1"
        )
        assert shards["model.norm.weight"] == "256, whole"
    (one, whole), (other, same) = (found["norm"] for found in ranks)
    assert whole == same == pytest.approx((one**2 + other**2) ** 0.5, rel=1e-5)
    assert one != other
    rows = written(job)
    assert [row["completion_tokens"] for row in rows] == [5] * 6
    assert all(row["norm"] > 0 and row["calls"][0] == row["calls"][1] for row in rows)
    # 4 layers in each step: the first of 4 rows of 4 tokens, at the end 2 rows of one.
    assert ranks[0]["calls"] == ranks[1]["calls"] == max(row["calls"][0] for row in rows)
    assert ranks[0]["calls"] % 4 == 0
    assert [16, 256] in ranks[0]["shapes"]
    assert [2, 256] in ranks[1]["shapes"]
    assert ended.records[0].digest == ended.records[1].digest


# The seed's code; three lines are changed: the LLM is the job's, and the layers are where vLLM's Llama has them.
SEED = """
import json
import torch
import torch.distributed as dist
from vllm import SamplingParams
from vllm.distributed.parallel_state import get_world_group

def seed(ctx):
    prompts = ["Hello, my name is", "The capital of France is"]
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
    llm = ctx.llm
    outputs = llm.generate(prompts, sampling_params)
    if dist.get_rank() == 0:
        for output in outputs:
            print(f"Prompt: {output.prompt!r}")
            print(f"Generated text: {output.outputs[0].text!r}")
    cpu_group = get_world_group().cpu_group
    torch_rank = dist.get_rank(group=cpu_group)
    device_group = get_world_group().device_group
    dist.barrier(group=cpu_group)
    model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    if dist.get_rank() == 0:
        print(f"Model type: {type(model)}")
        print(f"Number of layers: {len(model.model.layers)}")
        for name, param in model.named_parameters():
            print(f"{name}: {param.shape}")
    local_metrics = torch.tensor([float(torch_rank + 1)])
    global_metrics = torch.zeros_like(local_metrics)
    global_metrics += local_metrics
    dist.all_reduce(global_metrics, op=dist.ReduceOp.SUM, group=device_group)
    hooks = []
    shapes = []
    def hook_fn(module, input, output):
        shapes.append(list(output[0].shape))
    for layer in model.model.layers:
        hooks.append(layer.register_forward_hook(hook_fn))
    outputs = llm.generate(prompts, sampling_params)
    for hook in hooks:
        hook.remove()
    print(f"[Rank {dist.get_rank()}/{dist.get_world_size()}] Generated {len(outputs)} outputs")
    found = {"metrics": global_metrics.tolist(), "shapes": shapes, "is_same": torch_rank == ctx.rank,
             "tokens": [list(output.outputs[0].token_ids) for output in outputs]}
    (ctx.artefacts / "found.json").write_text(json.dumps(found))

seed.needs_hooks = True
"""


def check_seed(job: JobFolder, ended: Ended) -> None:
    first, second = found_by(job, 0), found_by(job, 1)
    assert first == second
    assert first["metrics"] == [3.0]
    assert first["is_same"]
    assert len(first["shapes"]) % 4 == 0
    assert [shape[1] for shape in first["shapes"]] == [256] * len(first["shapes"])
    assert "Prompt: 'Hello, my name is'" in ended.logs[0]
    assert "Number of layers: 4" in ended.logs[0]
    assert "Generated text" not in ended.logs[1]
    assert "[Rank 1/2] Generated 2 outputs" in ended.logs[1]
    assert not list(job.shards.iterdir())


@pytest.mark.full
def test_the_seeds_code_in_a_function_that_drives(tiny: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, SEED, "seed", tiny, drives_engine=True, needs_hooks=True, rows=[])
    check_seed(job, run_ranks(job).ok())


@pytest.mark.full
def test_the_seeds_code_pickled_in_a_notebook(tiny: Path, tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SEED, "<ipython-input-3>", "exec"), space)
    content = cloudpickle.dumps(space["seed"])
    program = Program(
        kind="pickle", name="__main__:seed (pickled)", source="__main__", drives_engine=True, needs_hooks=True,
        sha256=hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    job = make_job(tmp_path / "job", program, [], layout(2), model=tiny, **MORE)
    job.program_pickle.write_bytes(content)
    check_seed(job, run_ranks(job).ok())


BAD_HOOK = """
class Bad:
    needs_hooks = True
    def setup(self, ctx):
        ctx.layers[-1].register_forward_hook(self.note)
    def note(self, layer, args, output):
        raise ValueError("no such unit")
"""


@pytest.mark.full
def test_an_error_in_a_hook_is_the_programs_and_suspects_no_row(tiny: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, BAD_HOOK, "Bad", tiny, needs_hooks=True, shape=layout(1))
    ended = run_ranks(job)
    error = ended.records[0].error
    assert error is not None
    assert (ended.codes, error.type, error.message) == ([1], "ValueError", "no such unit (mine.py:7)")
    assert not job.crash(0, 1).exists()


@pytest.mark.full
def test_hooks_over_pipeline_stages_on_the_cpu_are_refused(tiny: Path, tmp_path: Path) -> None:
    ended = run_ranks(job_of(tmp_path, BAD_HOOK, "Bad", tiny, needs_hooks=True, shape=layout(pp=2), engine=ENGINE))
    errors = [record.error for record in ended.records]
    assert all(
        error is not None and "needs hooks, which vLLM's CPU back-end cannot call with --pp" in error.message
        for error in errors
    )


def example(heading: str, path: Path) -> Path:
    """The first block of Python under a heading of the page, as a file."""
    page = (Path(__file__).parents[2] / "docs" / "programs.md").read_text()
    path.write_text(page.partition(f"## {heading}\n")[2].partition("```python\n")[2].partition("```")[0])
    return path


@pytest.mark.full
def test_the_pages_example_of_hooks_in_a_job(tiny: Path, tmp_path: Path) -> None:
    program = f"{example('A program on every rank', tmp_path / 'norms.py')}:Norms"
    job = submit_tiny(tiny, tmp_path, program=program, tp=2, env=ONE_CORE)
    assert "eager mode, without CUDA graphs or compiled code: Norms needs hooks" in job.folder.job().plan.reasons
    status = job.wait(PATIENCE_S)
    assert status.state == "COMPLETED", job.logs()
    rows = list(job.results())
    assert all(row["largest_so_far"] > 0 for row in rows)
    torch = pytest.importorskip("torch")
    found = [torch.load(job.path / "artefacts" / f"rank-{rank}" / "norms.pt") for rank in (0, 1)]
    assert found[0]["tokens"] == found[1]["tokens"] > sum(row["completion_tokens"] for row in rows)
    assert len(found[0]["squares"]) == 4
    largest = (found[0]["squares"] / found[0]["tokens"]).max().item()
    assert rows[-1]["largest_so_far"] == pytest.approx(largest, rel=0.5)
    assert f"{len(rows)} rows" in (job.path / "logs" / "rank-1.log").read_text()


@pytest.mark.full
def test_the_pages_example_of_a_program_that_drives_in_a_job(tiny: Path, tmp_path: Path) -> None:
    program = f"{example('A program that drives the engine', tmp_path / 'example.py')}:main"
    options: dict[str, Any] = {
        "engine": ENGINE,
        "scheduler": "local",
        "env": ONE_CORE,
        "job_dir": str(tmp_path / "runs"),
    }
    job = submit(str(tiny), program=program, tp=2, pp=1, **options)
    status = job.wait(PATIENCE_S)
    assert (status.state, status.rows.total) == ("COMPLETED", 0), job.logs()
    logs = [(job.path / "logs" / f"rank-{rank}.log").read_text(errors="replace") for rank in (0, 1)]
    assert logs[0].count("Generated text: ") == 2
    assert "Generated text: " not in logs[1]
