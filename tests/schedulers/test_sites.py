"""The gallery of sites: a golden script of two nodes for each, and in it all that the site demands.

After a wanted change: ``VLLM_HPC_UPDATE_GOLDEN=1 pytest tests/schedulers/test_sites.py``, and read the diff.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import require
from tests.schedulers.site_demands import COLUMNS, DEMANDS, NF, NotPossible
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.lifecycle import lifecycle_sha256
from vllm_hpc.spec.errors import RefusedError

pytestmark = pytest.mark.admins
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "sites"
GALLERY = ROOT / "vllm_hpc" / "sites"
SITES = sorted(path.stem for path in GALLERY.glob("*.toml"))
UPDATE = "VLLM_HPC_UPDATE_GOLDEN=1 pytest tests/schedulers/test_sites.py"
DIGEST = "0" * 64
# Shifter has images by name.
IMAGES = {"perlmutter": "vllm/vllm-openai:latest"}
# What somebody at the site gives beside the profile, for two nodes. A job_dir where only they know the project.
OPTIONS: dict[str, dict[str, Any]] = {
    "polaris": {"tp": 4, "dp": 2, "job_dir": "/eagle/proj/runs"},
    "aurora": {"tp": 4, "dp": 6, "job_dir": "/flare/proj/runs"},
    "gadi": {"tp": 4, "dp": 2},
    "abci": {"tp": 8, "dp": 2, "job_dir": "/groups/proj/runs"},
    "derecho": {"tp": 4, "dp": 2},
    "miyabi": {"tp": 2, "partition": "regular-g", "job_dir": "/work/proj/runs"},
    "perlmutter": {"tp": 4, "dp": 2},
    "frontier": {"tp": 8, "dp": 2, "job_dir": "/lustre/orion/proj/runs"},
    "delta": {"tp": 4, "dp": 2, "account": "abcd-delta-gpu", "job_dir": "/work/hdd/abcd/runs"},
    "leonardo": {"tp": 4, "dp": 2},
    "juwels-booster": {"tp": 4, "dp": 2, "job_dir": "/p/scratch/proj/runs"},
    "jupiter": {"tp": 4, "dp": 2, "job_dir": "/e/scratch/proj/runs"},
    "mn5": {"tp": 4, "dp": 2, "job_dir": "/gpfs/scratch/proj/runs"},
    "lumi": {
        "tp": 8, "dp": 2, "partition": "standard-g", "account": "project_465000001",
        "job_dir": "/scratch/project_465000001/runs",
    },
    "snellius": {"tp": 4, "dp": 2, "partition": "gpu_h100"},
}  # fmt: skip
# What the login nodes of these sites set.
VARIABLES = {
    "USER": "ada", "PROJECT": "xx00", "SCRATCH": "/pscratch/sd/a/ada", "WORK": "/leonardo_work/proj",
}  # fmt: skip
Render = Callable[..., str]


def end(site: str) -> str:
    return ".pbs" if 'scheduler = "pbs"' in (GALLERY / f"{site}.toml").read_text(encoding="utf-8") else ".sbatch"


SCRIPTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{site}{end(site)}": (site, {}) for site in SITES},
    **{
        f"{site}-container{end(site)}": (site, {"container": IMAGES.get(site, "/images/vllm.sif")})
        for site in SITES
        if DEMANDS[site]["container"] != NF
    },
}


@pytest.fixture
def render(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Render:
    """Render a site's script with these options, with nothing of this machine in it."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    monkeypatch.setattr("vllm_hpc.schedulers.script.__version__", "VERSION")
    monkeypatch.setattr("vllm_hpc.schedulers.script._umask", lambda: "022")

    def script(site: str, **options: Any) -> str:
        given = {"profile": f"site/{site}", "name": "run", "account": "proj", "time": "1:00:00", **options}
        return prepare(str(model), **given).script.replace(lifecycle_sha256(), DIGEST)

    return script


def joined(script: str) -> str:
    """The script with its long lines in one."""
    return re.sub(r"\\\n\s+", "", script)


# -- golden scripts --------------------------------------------------------------------------------------------------


def test_the_gallery_has_fifteen_sites() -> None:
    assert sorted(OPTIONS) == SITES
    assert len(SITES) == 15


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_the_golden_one(render: Render, name: str) -> None:
    site, more = SCRIPTS[name]
    script, path = render(site, nodes=2, **OPTIONS[site], **more), GOLDEN / name
    if os.environ.get("VLLM_HPC_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(script, encoding="utf-8")
    assert script == path.read_text(encoding="utf-8"), f"meant? {UPDATE}"


def test_every_golden_file_belongs_to_a_site() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(SCRIPTS)


@pytest.mark.parametrize(
    "command", [["bash", "-n"], ["shellcheck", "--shell=bash", "--exclude=SC1091", "-"]], ids=["bash", "shellcheck"]
)
def test_the_golden_scripts_are_clean(command: list[str]) -> None:
    require(shutil.which(command[0]) is not None, f"not installed: {command[0]}")
    for name in SCRIPTS:
        text = (GOLDEN / name).read_text(encoding="utf-8")
        check = subprocess.run(command, input=text, text=True, capture_output=True)
        assert (name, check.returncode, check.stdout, check.stderr) == (name, 0, "", "")


# -- demands ---------------------------------------------------------------------------------------------------------


def test_each_demand_is_in_the_table() -> None:
    """A site without a row, or a row without a column, would pass for one that demands nothing."""
    assert sorted(DEMANDS) == SITES
    assert {site: sorted(row) for site, row in DEMANDS.items()} == dict.fromkeys(DEMANDS, sorted(COLUMNS))


def test_at_most_five_demands_are_not_possible() -> None:
    given_up = [(site, column) for site, row in DEMANDS.items() for column in row if is_not_possible(site, column)]
    assert len(given_up) <= 5, given_up


def is_not_possible(site: str, column: str) -> bool:
    return isinstance(DEMANDS[site][column], NotPossible)


def demanded(*columns: str) -> list[tuple[str, str]]:
    """Sites and columns of which a script must have something."""
    found = [(site, column) for site in DEMANDS for column in columns]
    return [one for one in found if not is_not_possible(*one) and DEMANDS[one[0]][one[1]] != NF]


@pytest.mark.parametrize(("site", "column"), demanded(*COLUMNS))
def test_the_golden_script_has_what_the_site_demands(site: str, column: str) -> None:
    kind = "-container" if column == "container" else ""
    script = joined((GOLDEN / f"{site}{kind}{end(site)}").read_text(encoding="utf-8"))
    demand = DEMANDS[site][column]
    assert not isinstance(demand, str)
    assert not isinstance(demand, NotPossible)
    for wanted in demand:
        found = re.search(wanted.removeprefix("!"), script, re.MULTILINE)
        assert (found is None) == wanted.startswith("!"), f"{site}, {column}: {wanted}\n{script}"


def test_what_no_source_tells_is_not_guessed() -> None:
    """Of these the profile has no value."""
    without = {
        "gadi": ("env", "exclusive", "whole_nodes"), "derecho": ("container", "scratch"),
        "miyabi": ("container", "gpu", "offline"), "leonardo": ("env", "scratch"), "juwels-booster": ("whole_nodes",),
        "mn5": ("whole_nodes", "exclusive"), "delta": ("offline",), "lumi": ("offline", "scratch"),
        "snellius": ("env", "required"),
    }  # fmt: skip
    for site, keys in without.items():
        assert [key for key in keys if key in profile(site)] == [], site
    nf = [site for site, row in DEMANDS.items() for demand in row.values() if demand == NF]
    assert set(nf) <= {"gadi", "abci", "derecho", "miyabi", "delta", "leonardo", "juwels-booster", "mn5", "lumi",
                       "snellius"}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "is_told"), [({}, False), ({"launcher": "torchrun"}, True), ({"launcher": "srun"}, False)]
)
def test_torchrun_on_frontier_is_warned_of(render: Render, model: Path, options: dict[str, Any], is_told: bool) -> None:
    """OLCF advises against it: its workers end up on one core."""
    given = {"profile": "site/frontier", "account": "proj", "job_dir": "/runs", "tp": 8, **options}
    reasons = prepare(str(model), **given).plan.reasons
    warning = "--launcher torchrun: the profile has srun, which the site may want for its cores and GPUs"
    assert (warning in reasons) == is_told, reasons


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


# -- the files -------------------------------------------------------------------------------------------------------

MARK = re.compile(r"# (ours: \S|[A-Za-z_-]+ \d{4}(-\d\d-\d\d)? [HML]\b)")


def profile(site: str) -> dict[str, Any]:
    text = (GALLERY / f"{site}.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["profiles"][f"site/{site}"]
    return table


@pytest.mark.parametrize("site", SITES)
def test_each_fact_has_its_source_and_date(site: str) -> None:
    """At the end of its line, or on the line before; the file's head resolves the source's tag."""
    lines = (GALLERY / f"{site}.toml").read_text(encoding="utf-8").splitlines()
    tags = {line.split()[2] for line in lines if line.startswith("# Source ")}
    assert tags
    for before, line in zip(["", *lines], lines, strict=False):
        is_fact = re.match(r"\s*(\w+ = [^\[{]|\w+ = \[.*\]|\w+ = \{|['\"])", line) and "description" not in line
        if not is_fact:
            continue
        found = MARK.search(line) or MARK.search(before)
        assert found, f"{site}: {line}"
        tag = found[1].split()[0]
        assert tag == "ours:" or tag in tags, f"{site}: {line}"


def test_the_wheel_has_the_gallery(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling")
    made = next(wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    names = zipfile.ZipFile(made).namelist()
    assert sorted(Path(name).stem for name in names if name.startswith("vllm_hpc/sites/")) == SITES
