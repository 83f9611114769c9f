"""The patches of vLLM: a name that vLLM renames turns off the patches that need it, and nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests import crafted, vllm_names
from tests.engine_run import ENVIRONMENT
from tests.marks import needs_vllm
from tests.real_jobs import ENGINE, GREEDY
from vllm_hpc import engine as engine_room
from vllm_hpc.engine.vllm_patches import Patches, is_on, lookup, table
from vllm_hpc.engine.vllm_patches.step_overlap import Overlap
from vllm_hpc.engine.vllm_patches.table import PATCHES
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import RankRecord

NAMES = sorted({name for patch in PATCHES.values() for name in patch.names})
VLLM = pytest.mark.vllm


def test_the_page_of_versions_is_made_from_the_table() -> None:
    found = vllm_names.read_found()
    assert found.names == table.every_name(), "look the names up again: python -m tests.vllm_names WHEEL ..."
    assert vllm_names.PAGE.read_text(encoding="utf-8") == vllm_names.page(found)


@pytest.mark.parametrize("minor", [f"0.{number}" for number in range(26, 34)])
def test_the_names_of_every_release_were_looked_up(minor: str) -> None:
    assert minor in {table.minor_of(version) for version in vllm_names.read_found().missing}


@needs_vllm
def test_the_page_is_right_of_the_vllm_that_is_installed() -> None:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = vllm_names.Source.open(Path(spec.origin).parents[1])
    missing = [name for name in table.every_name() if not source.has(name)]
    assert missing == vllm_names.read_found().missing[source.version]


def test_what_the_engine_imports_from_vllm_is_a_patchs_or_is_required() -> None:
    """Else its rename would end every job, and no page would have said so."""
    required = [name for names in table.REQUIRED.values() for name in names]
    found = [
        f"{node.module}:{alias.name}"
        for path in Path(engine_room.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("vllm.")
        for alias in node.names
        if "vllm_patches" not in path.parts
    ]
    assert found
    assert [name for name in found if not any(f"{one}.".startswith(f"{name}.") for one in required)] == []


def test_a_patch_that_was_read_line_by_line_is_off_in_other_versions() -> None:
    patch = PATCHES["fast-schedule"]
    assert patch.off_in("0.32.1+cpu") == ""
    assert patch.off_in("0.99.0") == "the patch was not checked against the source of vLLM 0.99.0"
    assert PATCHES["step-overlap"].off_in("0.99.0") == ""
    assert "vLLM can do this itself" in PATCHES["sharded-sampling"].off_in("0.32.0")


SOURCE = {
    "vllm/pool.py": "from vllm.base import Base as Old\nfrom .deep import far\n\nclass Pool(Old['x']):\n    one: int\n"
    "    two = 2\n    def three(self): ...\n    def __init__(self):\n        self.four, self.five = 4, 5\n"
    "        self.six: int = 6\n    def late(self):\n        self.no = 1\n",
    "vllm/base.py": "try:\n    import x\nexcept ImportError:\n    x = None\nclass Base:\n    def __init__(self):\n"
    "        self.old = 1\n",
    "vllm/deep/__init__.py": "from .down import far\n",
    "vllm/deep/down.py": "def far(): ...\n",
}


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        *((f"vllm.pool:Pool{attribute}", True) for attribute in ("", ".one", ".two", ".three", ".four", ".five")),
        *((f"vllm.pool:Pool.{attribute}", True) for attribute in ("six", "old")),
        ("vllm.pool:Pool.no", False),
        ("vllm.pool:Pool.seven", False),
        ("vllm.pool:far", True),
        ("vllm.deep:far", True),
        ("vllm.base:x", True),
        ("vllm.pool:Base", False),
        ("vllm.gone:far", False),
    ],
)
def test_names_are_looked_up_in_the_source(name: str, is_there: bool) -> None:
    assert vllm_names.Source("1.0", SOURCE.get).has(name) is is_there


@VLLM
def test_the_versions_that_were_read_are_those_that_the_patch_knows() -> None:
    pytest.importorskip("vllm")
    from vllm_hpc.engine.vllm_patches import fast_schedule

    assert tuple(fast_schedule._READ) == PATCHES["fast-schedule"].read


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As much of an engine as the patches look at: all of them are on for it, whatever vLLM is installed."""
    pytest.importorskip("vllm")
    from vllm.distributed import parallel_state
    from vllm.v1.core.sched.request_queue import SchedulingPolicy
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    from vllm_hpc.engine.vllm_patches import (  # noqa: F401 - imported before a name is gone
        early_grammar,
        fast_schedule,
        idle_forward,
        inspect_in_process,
        late_text,
        same_bits,
        sharded_sampling,
        shm_name,
        startup_timings,
    )  # fmt: skip

    for name in ("fast-schedule", "sharded-sampling"):
        monkeypatch.setitem(PATCHES, name, msgspec.structs.replace(PATCHES[name], read=None, off={}))
    monkeypatch.setattr(fast_schedule, "__version__", "0.32.0")
    group = SimpleNamespace(world_size=4, rank_in_group=0)
    monkeypatch.setattr(parallel_state, "get_tp_group", lambda: group)
    own = ExecutorWithExternalLauncher._distributed_args
    monkeypatch.setattr(ExecutorWithExternalLauncher, "_distributed_args", own)  # put back afterwards
    blocks = _bare(FullAttentionManager, block_size=16, req_to_blocks={}, num_cached_block={}, _partial_hit_reqs={})
    manager = SimpleNamespace(
        coordinator=SimpleNamespace(single_type_managers=(blocks,)),
        block_pool=SimpleNamespace(hash_block_size=16), enable_caching=True,
    )  # fmt: skip
    scheduler = _bare(
        Scheduler, kv_cache_manager=manager, policy=SchedulingPolicy.FCFS, num_sampled_tokens_per_step=1,
        scheduler_config=SimpleNamespace(long_prefill_token_threshold=0), use_v2_model_runner=False,
    )  # fmt: skip
    ran: list[str] = []
    sampler = _bare(Sampler, sampling_states=None, use_flashinfer=False)
    executor = SimpleNamespace(
        driver_worker=SimpleNamespace(worker=SimpleNamespace(model_runner=SimpleNamespace(sampler=sampler))),
        execute_model=lambda scheduled, non_block=False: 1, sample_tokens=lambda: 2,
        execute_dummy_batch=lambda: ran.append("dummy"),
    )  # fmt: skip
    config = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_size=2), use_v2_model_runner=True)
    core = SimpleNamespace(scheduler=scheduler, model_executor=executor, batch_queue=deque())
    return SimpleNamespace(engine_core=SimpleNamespace(engine_core=core), vllm_config=config, ran=ran)


def _bare(kind: Any, **attributes: Any) -> Any:
    """An object of that class whose ``__init__`` has not run."""
    made = object.__new__(kind)
    vars(made).update(attributes)
    return made


@pytest.fixture
def remove(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Takes a name out of the vLLM that is installed, as a release would that calls it otherwise."""
    taken: list[tuple[type, str, Any]] = []

    def remove(name: str) -> None:
        module, _, path = name.partition(":")
        first, *rest = path.split(".")
        owner = importlib.import_module(module)
        if not rest:
            monkeypatch.delattr(owner, first)
            return
        cls = getattr(owner, first)
        if rest[0] in getattr(cls, "_member_map_", {}):
            monkeypatch.delitem(cls._member_map_, rest[0])
        for base in cls.__mro__[:-1]:
            if rest[0] in vars(base):
                taken.append((base, rest[0], vars(base)[rest[0]]))
                type.__delattr__(base, rest[0])  # an enumeration's own forbids it
            _forget(monkeypatch, base, rest[0])

    yield remove
    for cls, attribute, held in taken:
        type.__setattr__(cls, attribute, held)


def _forget(patch: pytest.MonkeyPatch, cls: type, attribute: str) -> None:
    """Have a class neither declare an attribute, nor set it in its ``__init__``."""
    if attribute in vars(cls).get("__annotations__", {}):
        patch.delitem(vars(cls)["__annotations__"], attribute)
    init = inspect.unwrap(vars(cls).get("__init__", _forget))
    if inspect.isfunction(init) and attribute in init.__code__.co_names:
        others = tuple("renamed" if one == attribute else one for one in init.__code__.co_names)
        patch.setattr(init, "__code__", init.__code__.replace(co_names=others))


def take_all(engine: Any) -> Patches:
    """Every patch, as a rank takes them; and what asks for itself at its place."""
    patches = Patches()
    keep_bits(patches)
    patches.name_shared_memory("ident")
    with patches.starting({}, is_native=False):
        pass
    patches.apply(engine)
    executor = engine.engine_core.engine_core.model_executor
    own = executor.execute_model
    with Overlap(engine):
        assert (executor.execute_model is not own) is ("step-overlap" in patches.on)
    for name in ("late-text", "early-grammar", "skip-clone"):
        assert is_on(name) is (name in patches.on)
    return patches


def keep_bits(patches: Patches) -> None:
    """The patches of --reproducible, which stay for as long as a rank lives: here vLLM is put back."""
    from vllm.model_executor.layers import layernorm, linear

    with pytest.MonkeyPatch.context() as undo:
        changed = (layernorm, "rms_norm_batch_invariant"), (getattr(linear, "RowParallelLinear", None), "forward")
        for owner, name in changed:
            if hasattr(owner, name):
                undo.setattr(owner, name, getattr(owner, name))
        patches.keep_bits()


@VLLM
def test_all_patches_are_on_where_every_name_is_there(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    patches = take_all(engine)
    assert sorted(patches.on) == sorted(PATCHES)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "vllm-hpc: patch" in line]
    assert line.endswith(f"that are on: {', '.join(patches.on)}")


@VLLM
def test_a_step_that_schedules_nothing_still_runs_the_model(engine: Any) -> None:
    """Where a replica has several lanes, on vLLM's newer model runner."""
    from vllm_hpc.engine.vllm_patches import idle_forward

    assert idle_forward.turn_on(engine) == ""
    execute = engine.engine_core.engine_core.model_executor.execute_model
    assert execute(SimpleNamespace(total_num_scheduled_tokens=3), non_block=True) == 1
    assert engine.ran == []
    assert execute(SimpleNamespace(total_num_scheduled_tokens=0), non_block=True) == 1
    assert engine.ran == ["dummy"]
    engine.vllm_config.use_v2_model_runner = False
    assert "itself" in idle_forward.turn_on(engine)
    engine.vllm_config.parallel_config.data_parallel_size = 1
    assert "one lane" in idle_forward.turn_on(engine)


@VLLM
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_gone_turns_off_the_patches_that_need_it(
    engine: Any, remove: Callable[[str], None], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if lookup.first_missing([name]):
        pytest.skip("not in the vLLM that is installed")
    remove(name)
    assert lookup.first_missing([name]) == name
    patches = take_all(engine)
    needing = {patch.name for patch in PATCHES.values() if any(f"{one}.".startswith(f"{name}.") for one in patch.names)}
    assert {name for name, state in patches.states.items() if state != "on"} == needing
    said = capsys.readouterr().out
    for patch in needing:
        lacking = lookup.first_missing(PATCHES[patch].names)  # a base's, it may be another class's as well
        why = f"vLLM {lookup.installed_version()} has no {lacking.replace(':', '.')}"
        assert f"vllm-hpc: patch {patch} is off: {why}" in said
        assert f"; {PATCHES[patch].without}\n" in said
        assert patches.states[patch].startswith(f"off: {why}")


@VLLM
def test_what_goes_wrong_in_a_patch_turns_it_off(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """vLLM may change what a name stands for, and keep the name."""

    class Odd:
        @property
        def engine_core(self) -> Any:
            raise LookupError("moved")

    patches = Patches()
    patches.apply(Odd())
    assert patches.states["fast-schedule"] == "off: LookupError: moved"
    assert "patch fast-schedule is off: LookupError: moved; the job runs slower" in capsys.readouterr().out


@VLLM
def test_a_start_is_timed_and_what_times_it_is_gone_afterwards(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.models import registry
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

    own = dict(vars(ExecutorWithExternalLauncher)), registry._run_in_subprocess
    monkeypatch.setattr(ExecutorWithExternalLauncher, "initialize_from_config", lambda _: 1 / 0)
    timings: dict[str, float] = {"device": 1.0, "weights": 3.0}
    with pytest.raises(ZeroDivisionError), Patches().starting(timings, is_native=False):
        assert registry._run_in_subprocess(lambda: 7) == 7
        ExecutorWithExternalLauncher.initialize_from_config(None)
    assert timings["capture"] >= 0
    monkeypatch.undo()
    assert (dict(vars(ExecutorWithExternalLauncher)), registry._run_in_subprocess) == own


OF_REPRODUCIBLE = {"steady-norm", "tree-rows"}
ROWS = [{"prompt": f"def function_{n}(folder):", "sampling": {"max_tokens": 5 + n * 7 % 40}} for n in range(12)]
# Of each patch that has one, a name that vLLM itself does not look up where it is: it can be taken away altogether.
REMOVED = (
    "vllm.v1.core.sched.interface:PauseState", "vllm.v1.worker.gpu.sample.sampler:Sampler",
    "vllm.v1.engine.detokenizer:IncrementalDetokenizer", "vllm.v1.structured_output.request:StructuredOutputRequest",
    "vllm.v1.executor.multiproc_executor:MultiprocExecutor",
)  # fmt: skip


def run_rank(folder: Path, model: Path, *arguments: str) -> tuple[RankRecord, list[Any]]:
    """One rank on the tiny model, with its patches or without some: its record, and the rows."""
    job = crafted.make_job(folder, ROWS)
    plan = msgspec.structs.replace(job.job().plan, engine=ENGINE)
    write_json(job.job_json, msgspec.structs.replace(job.job(), plan=plan, model=str(model), sampling=GREEDY))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    places = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = {"VLLM_HPC_TASK": "0", "VLLM_HPC_ATTEMPT": "1", "VLLM_HPC_JOB_ID": folder.name}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.rank_without", str(folder), *arguments],
        env={**os.environ, **ENVIRONMENT, **places, **own}, cwd=Path(__file__).parents[2], timeout=600,
    )  # fmt: skip
    log = job.rank_log(0).read_text(errors="replace")
    assert done.returncode == 0, log[-5000:]
    record = read_json(JobFolder(folder).rank_record(0), RankRecord)
    assert record is not None
    assert all(f"patch {name} is off" in log for name, state in record.patches.items() if state != "on")
    return record, sorted(crafted.read_lines(job.shard(0, 1)), key=lambda row: row["index"])


@VLLM
@pytest.mark.full
def test_a_job_without_any_patch_has_the_same_tokens(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    record, rows = run_rank(tmp_path / "with", tiny)
    bare, same_rows = run_rank(tmp_path / "without", tiny, *REMOVED)
    assert set(PATCHES) - OF_REPRODUCIBLE == set(record.patches) == set(bare.patches)
    assert {"fast-schedule", "late-text", "early-grammar", "skip-clone"} <= {
        name for name, state in record.patches.items() if state == "on"
    }
    assert [state for state in bare.patches.values() if "has no" not in state] == []
    assert (bare.outcome, bare.digest, bare.rows) == ("ok", record.digest, len(ROWS))
    assert json.dumps(rows) == json.dumps(same_rows)
