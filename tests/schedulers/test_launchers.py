"""What starts the ranks, and what --launcher native makes of a plan."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.other_package import install_launcher
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.schedulers.launchers import get_launcher
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.errors import RefusedError, RequestError
from vllm_hpc.spec.registry import LAUNCHERS, SCHEDULERS


def script(desk: Path, model: Path, scheduler: str, profile: str = "", **options: Any) -> str:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{profile}\n")
    return prepare(str(model), scheduler=scheduler, profile="p", nodes=2, gpus_per_node=2, tp=4, **options).script


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_native_ranks_start_as_all_others(desk: Path, model: Path, scheduler: str) -> None:
    assert script(desk, model, scheduler, launcher="native", name="a") == script(desk, model, scheduler, name="a")


def test_what_starts_them_is_still_the_profiles(desk: Path, model: Path) -> None:
    for scheduler, profile in (("slurm", 'launcher = "srun"'), ("pbs", 'launcher = "mpiexec"')):
        plain = script(desk, model, scheduler, profile, name="a")
        assert script(desk, model, scheduler, profile, launcher="native", name="a") == plain
    with pytest.raises(RefusedError, match="launcher_options cannot contain -n: it follows"):
        script(desk, model, "pbs", 'launcher = "mpiexec"\nlauncher_options = ["-n", "9"]', launcher="native")


def test_the_plan_says_it(desk: Path, model: Path) -> None:
    del desk
    plain = plan_only(str(model), scheduler="local", pp=2)
    native = plan_only(str(model), scheduler="local", pp=2, launcher="native")
    assert (plain.is_native, native.is_native) == (False, True)
    assert native.engine == {**plain.engine, "distributed_executor_backend": "mp"}
    assert native.layout == plain.layout
    assert any("--launcher native they overlap" in reason for reason in plain.reasons)
    assert any("vLLM's mp back-end starts the workers" in reason for reason in native.reasons)
    assert not any("native" in reason for reason in plan_only(str(model), scheduler="local", tp=2).reasons)


def test_a_profile_may_ask_for_it_and_an_option_take_it_back(desk: Path, model: Path) -> None:
    (desk / "vllm-hpc.toml").write_text('[profiles.p]\nlauncher = "native"\n')
    options: dict[str, Any] = {"scheduler": "slurm", "profile": "p", "nodes": 2, "pp": 2}
    assert plan_only(str(model), **options).is_native
    assert not plan_only(str(model), launcher="srun", **options).is_native


@pytest.mark.parametrize(
    ("layout", "is_even"),
    [
        ({"nodes": 3, "gpus_per_node": 2, "tp": 1, "pp": 3}, False),
        ({"nodes": 2, "gpus_per_node": 3, "tp": 2, "pp": 1}, False),
        ({"nodes": 2, "gpus_per_node": 4, "tp": 2, "pp": 1}, True),
        ({"nodes": 4, "gpus_per_node": 2, "tp": 2, "pp": 2}, True),
    ],
)
def test_its_workers_lie_evenly_over_nodes(desk: Path, model: Path, layout: dict[str, int], is_even: bool) -> None:
    del desk
    options: dict[str, Any] = {"scheduler": "slurm", "launcher": "native", **layout}
    if is_even:
        assert plan_only(str(model), **options).is_native
    else:
        words = r"cannot be split evenly over nodes of \d: change --tp, --pp or --gpus-per-node, or leave it out"
        with pytest.raises(RefusedError, match=words):
            plan_only(str(model), **options)


def test_vllms_back_end_is_not_chosen_by_its_own_name(model: Path) -> None:
    with pytest.raises(RefusedError, match="--launcher native for mp"):
        plan_only(str(model), scheduler="local", engine={"distributed_executor_backend": "mp"})


@pytest.mark.parametrize("name", [name for name, where in LAUNCHERS.built_in.items() if where])
def test_each_of_the_table_goes_with_the_schedulers_that_name_it(name: str) -> None:
    launcher = get_launcher(name)
    assert launcher.name == name
    named_by = {one for one in SCHEDULERS.built_in if one != "auto" and name in get_scheduler(one).launchers}
    assert set(launcher.schedulers) == named_by


def test_one_from_outside_the_package_is_an_object_and_an_entry_point(
    desk: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match=r'--launcher must be one of "mpiexec", .* not .siterun.'):
        prepare(str(model), scheduler="slurm", launcher="siterun")
    install_launcher(tmp_path, monkeypatch)
    assert LAUNCHERS.names() == [*LAUNCHERS.built_in, "siterun"]
    words = prepare(str(model), scheduler="slurm", launcher="siterun").script.replace("\\\n", "").split()
    place = next(place for place, word in enumerate(words) if word.endswith("/siterun"))
    assert words[place + 1 : place + 3] == ["--nodes=1", "--ntasks=1"]
    assert "siterun --nodes=2" in script(desk, model, "slurm", 'launcher = "siterun"')
    with pytest.raises(RequestError, match="--launcher siterun cannot be used with the scheduler pbs"):
        prepare(str(model), scheduler="pbs", launcher="siterun")


@pytest.mark.parametrize(
    ("scheduler", "asked", "named"),
    [
        ("slurm", "pbsdsh", "torchrun, srun, siterun, native"),
        ("pbs", "srun", "pbsdsh, pbs_tmrsh, mpiexec, openmpi, native"),
    ],
)
def test_a_refusal_names_those_of_other_packages_that_go_with_the_scheduler(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, asked: str, named: str
) -> None:
    install_launcher(tmp_path, monkeypatch)
    entry_points = tmp_path / "site" / "siterun-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text(entry_points.read_text() + "broken = no_such_module:LAUNCHER\n")
    with pytest.raises(RequestError, match=f"use one of {named}, or leave it out"):
        prepare(str(model), scheduler=scheduler, launcher=asked)


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_what_a_launcher_is_called_is_one_word_to_the_shell(
    desk: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    fields = {"program": "my ssh", "node": "$(cut -d ' ' -f 1 number)", "schedulers": (scheduler,)}
    install_launcher(tmp_path, monkeypatch, **fields)
    text = script(desk, model, scheduler, 'launcher = "siterun"')
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith(("make_task", "run_work"))]
    assert [line[1] for line in lines] == ["$(cut -d ' ' -f 1 number)", "my ssh"]


def test_a_task_for_each_rank_is_refused_where_slurm_does_not_number_it(
    desk: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del desk
    install_launcher(tmp_path, monkeypatch, is_task_per_rank=True, schedulers=("slurm", "pbs"))
    assert "exec env RANK=" in prepare(str(model), scheduler="slurm", launcher="siterun").script
    with pytest.raises(RequestError, match=r"siterun starts one task per rank, .* with the scheduler pbs"):
        prepare(str(model), scheduler="pbs", launcher="siterun")


WRAPPER = 'wrapper = ["numactl", "--localalloc", "a b"]'


@pytest.mark.parametrize(
    ("scheduler", "profile", "line"),
    [
        ("slurm", "", "  exec numactl --localalloc 'a b' python -P -m torch.distributed.run --nnodes="),
        ("slurm", 'launcher = "srun"', "    numactl --localalloc 'a b' python -P -m vllm_hpc.in_job rank "),
        ("pbs", "", "  exec numactl --localalloc 'a b' python -P -m torch.distributed.run --nnodes="),
        (
            "pbs",
            'launcher = "mpiexec"',
            "  exec numactl --localalloc 'a b' python -P -m torch.distributed.run --nnodes=",
        ),
    ],
)
def test_a_wrapper_comes_before_what_runs_on_each_node(
    desk: Path, model: Path, scheduler: str, profile: str, line: str
) -> None:
    assert script(desk, model, scheduler, f"{profile}\n{WRAPPER}").count(line) == 1


def test_a_wrapper_on_this_machine(desk: Path, model: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{WRAPPER}\n")
    here = prepare(str(model), scheduler="local", profile="p").script
    assert "  exec numactl --localalloc 'a b' python -P -m torch.distributed.run --nnodes=" in here


@pytest.mark.parametrize("value", ['["a\\nb"]', '"numactl"', '["HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz0123456789"]'])
def test_a_wrapper_that_cannot_be_meant_is_refused(desk: Path, model: Path, value: str) -> None:
    with pytest.raises(RefusedError, match=r"vllm-hpc\.toml:2: .*wrapper"):
        script(desk, model, "slurm", f"wrapper = {value}")
