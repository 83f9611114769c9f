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


def renderer(model: Path, monkeypatch: pytest.MonkeyPatch) -> Render:
    """What renders a site's script with some options, with nothing of this machine in it."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    monkeypatch.setattr("vllm_hpc.schedulers.script.__version__", "VERSION")
    monkeypatch.setattr("vllm_hpc.schedulers.script._umask", lambda: "022")

    def script(site: str, **options: Any) -> str:
        given = {"profile": f"site/{site}", "name": "run", "account": "proj", "time": "1:00:00", **options}
        return prepare(str(model), **given).script.replace(lifecycle_sha256(), DIGEST)

    return script


@pytest.fixture
def render(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Render:
    return renderer(model, monkeypatch)


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
