"""Which queue of a site takes a job, and what of a node is billed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.schedulers.test_sites import OPTIONS, SITES, Render, end, renderer
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.spec.errors import RefusedError

pytestmark = pytest.mark.admins


@pytest.fixture
def render(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Render:
    return renderer(model, monkeypatch)


# -- what is billed --------------------------------------------------------------------------------------------------

ONE_GPU = {
    "gadi": ("#PBS -l ncpus=12", "#PBS -l ngpus=1", "#PBS -l mem=97280mb"),
    "lumi": ("#SBATCH --partition=small-g", "#SBATCH --gpus-per-node=1", "#SBATCH --cpus-per-task=7",
             "#SBATCH --mem=61440M"),
    "delta": ("#SBATCH --partition=gpuA100x4", "#SBATCH --gpus-per-node=1", "#SBATCH --cpus-per-task=16"),
    "leonardo": ("#SBATCH --partition=boost_usr_prod", "#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=8"),
    "snellius": ("#SBATCH --partition=gpu_a100", "#SBATCH --gpus-per-node=1", "#SBATCH --cpus-per-task=18",
                 "#SBATCH --mem=122880M"),
    "abci": ("#PBS -q rt_HG",),
    "mn5": ("#SBATCH --gres=gpu:1", "#SBATCH --cpus-per-task=20"),
}  # fmt: skip


@pytest.mark.parametrize("site", ONE_GPU)
def test_one_gpu_is_not_billed_as_a_node(render: Render, site: str) -> None:
    lines = render(site, gpus_per_node=1, tp=1, job_dir="/runs").splitlines()
    assert set(ONE_GPU[site]) <= set(lines), "\n".join(lines[:30])
    assert not any(line in ("#SBATCH --exclusive", "#SBATCH --mem=0", "#PBS -l place=scatter:excl") for line in lines)


OTHER_GPUS = [
    ("delta", {"partition": "gpuH200x8", "tp": 8}, ("--gpus-per-node=8", "--cpus-per-task=96")),
    ("delta", {"partition": "gpuA40x4", "tp": 4}, ("--gpus-per-node=4", "--cpus-per-task=64")),
    ("snellius", {"partition": "gpu_a100", "tp": 4}, ("--gpus-per-node=4", "--cpus-per-task=72", "--mem=491520M")),
    ("gadi", {"partition": "gpuhopper", "tp": 4, "mem": "500G"}, ("-l ncpus=96", "-l ngpus=8", "-l mem=1000gb")),
    ("gadi", {"partition": "dgxa100", "nodes": 1, "gpus_per_node": 2, "tp": 2}, ("-l ncpus=32", "-l ngpus=2")),
    ("abci", {"partition": "rt_HG", "nodes": 1, "tp": 1}, ("-q rt_HG", "-l select=1:mpiprocs=1")),
]  # fmt: skip


@pytest.mark.parametrize(("site", "options", "lines"), OTHER_GPUS)
def test_a_queue_of_other_gpus_has_its_own_shares(
    render: Render, site: str, options: dict[str, Any], lines: tuple[str, ...]
) -> None:
    script = render(site, job_dir="/runs", **{"nodes": 2, **options})
    assert {f"{'#PBS' if end(site) == '.pbs' else '#SBATCH'} {line}" for line in lines} <= set(script.splitlines())


@pytest.mark.usefixtures("render")
@pytest.mark.parametrize("site", [site for site in SITES if end(site) == ".pbs"])
def test_pbs_is_not_asked_for_what_the_profile_says(model: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("vllm_hpc.schedulers.pbs.nodes.node_part.__defaults__", (asked.append,))
    prepare(str(model), profile=f"site/{site}", account="proj", time="0:30:00", gpus_per_node=1, tp=1, job_dir="/runs")
    assert asked == []


@pytest.mark.parametrize(
    ("site", "line"),
    [("jupiter", "#SBATCH --gres=gpu:4"), ("jupiter", "#SBATCH --cpus-per-task=288"),
     ("derecho", "#PBS -l select=1:ncpus=64:ngpus=4:mpiprocs=1:mem=491520mb")],
)  # fmt: skip
def test_where_a_node_is_billed_whole_all_of_it_is_asked_for(render: Render, site: str, line: str) -> None:
    assert line in render(site, nodes=1, gpus_per_node=1, tp=1, job_dir="/runs").splitlines()


# -- queues ----------------------------------------------------------------------------------------------------------

QUEUES = [
    ("polaris", 2, "1:00:00", "-q debug"), ("polaris", 2, "3:00:00", "-q capacity"),
    ("polaris", 8, "0:30:00", "-q debug-scaling"), ("polaris", 10, "3:00:00", "-q prod"),
    ("polaris", 25, "6:00:00", "-q prod"), ("aurora", 4, "2:00:00", "-q capacity"),
    ("aurora", 256, "12:00:00", "-q prod"), ("abci", 3, "24:00:00", "-q rt_HF"),
    ("miyabi", 8, "8:00:00", "-q short-g"), ("miyabi", 8, "9:00:00", "-q regular-g"),
    ("miyabi", 200, "24:00:00", "-q regular-g"), ("frontier", 91, "2:00:00", "--partition=batch"),
    ("frontier", 64, "12:00:00", "--partition=extended"), ("frontier", 92, "6:00:00", "--partition=batch"),
    ("leonardo", 4, "3-00:00:00", "--qos=boost_qos_lprod"), ("lumi", 4, "3-00:00:00", "--partition=small-g"),
    ("lumi", 5, "2-00:00:00", "--partition=standard-g"), ("mn5", 9, "72:00:00", "--qos=acc_ehpc"),
]  # fmt: skip


@pytest.mark.parametrize(("site", "nodes", "time", "line"), QUEUES)
def test_the_queue_that_takes_the_job(render: Render, site: str, nodes: int, time: str, line: str) -> None:
    tp = OPTIONS[site]["tp"] // (2 if site == "miyabi" else 1)
    script = render(site, nodes=nodes, time=time, tp=tp, job_dir="/runs")
    prefix = "#PBS" if end(site) == ".pbs" else "#SBATCH"
    assert f"{prefix} {line}" in script.splitlines()


@pytest.mark.parametrize(
    ("site", "options"),
    [
        ("polaris", {"nodes": 9, "time": "3:00:00"}), ("polaris", {"nodes": 497}), ("frontier", {"nodes": 92, "time":
        "24:00:00"}), ("miyabi", {"nodes": 257, "tp": 1}), ("lumi", {"nodes": 5, "time": "3-00:00:00"}),
        ("gadi", {"nodes": 2, "gpus_per_node": 2, "tp": 2}), ("derecho", {"nodes": 83}), ("abci", {"nodes": 129}),
        ("polaris", {"nodes": 2, "account": None}), ("polaris", {"nodes": 2, "time": None}),
    ],
)  # fmt: skip
def test_what_no_queue_takes_is_refused(render: Render, site: str, options: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        render(site, **{"tp": 4, "job_dir": "/runs", **options})


@pytest.mark.parametrize(
    ("site", "options", "queue"),
    [
        ("polaris", {"nodes": 9, "time": "3:00:00", "tp": 4}, "--queue preemptable (1 to 10 nodes, at most 72:00:00)"),
        ("delta", {"nodes": 1, "tp": 8}, "--queue gpuH200x8 (1 to 8 nodes, at most 48:00:00, h200)"),
        ("delta", {"nodes": 1, "tp": 4, "gpu": "h200"}, "--queue gpuH200x8"),
        ("lumi", {"nodes": 8, "tp": 8, "time": "2:00:00", "partition": "small-g"}, "--queue standard-g"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_queue_that_takes_the_job(
    render: Render, site: str, options: dict[str, Any], queue: str
) -> None:
    """Also one that jobs get by request only."""
    with pytest.raises(RefusedError) as refused:
        render(site, job_dir="/runs", **options)
    assert f": use {queue}" in str(refused.value)
