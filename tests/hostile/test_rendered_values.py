"""Generated values of profiles and options, through every template, launcher and runtime to a real bash.

What arrives is what was given, to the byte; or it is refused in one line that names its key. Each case has a seed:

python -m pytest "tests/hostile/test_rendered_values.py::test_values_arrive[slurm-srun-podman-3]"
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.hostile.cases import CANARY
from tests.hostile.generate_settings import VARIABLES, Maker, Setting, Shape
from tests.hostile.run_script import install, install_python, run_script
from vllm_hpc.jobs.submit import Prepared, prepare
from vllm_hpc.schedulers.lifecycle import lifecycle_text
from vllm_hpc.spec.container import RUNTIMES
from vllm_hpc.spec.errors import RefusedError
from vllm_hpc.spec.toml_text import toml_key, toml_value

pytestmark = pytest.mark.admins
_LAUNCHERS = (
    ("slurm", "torchrun"), ("slurm", "srun"), ("pbs", "pbsdsh"), ("pbs", "pbs_tmrsh"), ("pbs", "mpiexec"),
    ("pbs", "openmpi"), ("local", "torchrun"),
)  # fmt: skip
SHAPES = [
    Shape(scheduler, launcher, runtime)
    for scheduler, launcher in _LAUNCHERS
    for runtime in (None, *RUNTIMES)
    if runtime != "pyxis" or scheduler == "slurm"
]
_ALL = ("job_name", "job_dir", "cache_dir", "scratch", "template_dir", "env", "site_env", "setup", "node_setup",
        "pass_env", "secrets", "torchrun_options", "wrapper")  # fmt: skip
_CLUSTERS = ("account", "partition", "directive", "directives", "head_suffix", "head_command")
_OF = {
    "slurm": ("qos", "gpu_type", "srun_options", "cpu_bind"), "pbs": ("resources", "chunk", "launcher_options"),
    "local": (),
}  # fmt: skip
_OF_IMAGES = ("image", "binds", "options", "image_python", "bundle")
# A queue is PBS's partition.
_ALSO = {"partition": ("queue",)}
_A_CASE, _FEWEST, _SEEDS = 10, 200, 20


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path: names in it are long. Its folder 'desk' is the one that the job is submitted from."""
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-") as folder:
        monkeypatch.setenv("XDG_CACHE_HOME", f"{folder}/cache")
        # As if this folder were no part of /tmp, which is in every image.
        monkeypatch.setattr("vllm_hpc.schedulers.containers.binds._TMP", Path("/no/tmp"))
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)
        (Path(folder) / "runs").mkdir()
        (Path(folder) / "hosts").write_text("node-1\nnode-2\n")
        yield Path(folder)


def quick() -> list[Shape]:
    """Those of make test: each launcher, and each runtime with one of each scheduler's launchers."""
    found = [shape for shape in SHAPES if shape.runtime is None]
    for scheduler in _OF:
        for place, runtime in enumerate(RUNTIMES):
            there = [shape for shape in SHAPES if (shape.scheduler, shape.runtime) == (scheduler, runtime)]
            found += [there[place % len(there)]] if there else []
    return found


def cases() -> Iterator[Any]:
    chosen = quick()
    for shape in SHAPES:
        name = "-".join(filter(None, shape))
        for seed in range(_SEEDS):
            marks = [] if shape in chosen and not seed else [pytest.mark.full]
            yield pytest.param(shape, seed, id=f"{name}-{seed}", marks=marks)


def test_there_are_enough() -> None:
    chosen = quick()
    assert len(chosen) * _A_CASE >= _FEWEST
    assert {shape.runtime for shape in chosen} == {None, *RUNTIMES}
    assert {shape[:2] for shape in chosen} == set(_LAUNCHERS)


@pytest.mark.parametrize(("shape", "seed"), list(cases()))
def test_values_arrive(shape: Shape, seed: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = place / "kept"
    install(place / "bin", kept)
    maker = Maker(Random(f"{shape} {seed}"), shape, place / "made", kept)
    desk = maker.folder()
    monkeypatch.chdir(desk)
    plain = install_python(place / "plain", kept)
    prepared, settings = _taken(_settings(maker), shape, place, plain)
    before = _tree(place, prepared)
    ran = run_script(prepared, kept, _variables(place, desk))
    assert len(ran.ranks) == shape.nodes, ran.said
    assert _tree(place, prepared) == before
    assert not list(Path(prepared.folder).rglob(CANARY))
    wrong = {one.key: (one.value, found) for one in settings if (found := one.found(ran)) != one.expected}
    assert not wrong, wrong


def _settings(maker: Maker) -> list[Setting]:
    """Some of what a script of that shape takes."""
    shape = maker.shape
    names = [*_ALL, *_OF[shape.scheduler], *(_CLUSTERS if shape.scheduler != "local" else ())]
    names += _OF_IMAGES if shape.runtime else ("python",)  # ranks in an image have that one's
    unfit = {maker.random.choice(("head_suffix", "head_command"))}
    unfit |= {"torchrun_options"} if shape.launcher == "srun" else set()  # it starts none
    chosen = maker.random.sample([name for name in names if name not in unfit], _A_CASE)
    return [getattr(maker, name)() for name in chosen]


def _taken(settings: list[Setting], shape: Shape, place: Path, python: Path) -> tuple[Prepared, list[Setting]]:
    """The job with all of the settings that are not refused."""
    while True:
        try:
            return _prepare(settings, shape, place, python), settings
        except RefusedError as error:
            said = str(error)
        assert said.replace(str(Path.cwd()), "").isprintable(), repr(said)  # the command line prints it visibly
        culprit = _culprit(said, settings, shape, place, python)
        assert culprit is not None, said
        settings = [one for one in settings if one is not culprit]


def _culprit(said: str, settings: list[Setting], shape: Shape, place: Path, python: Path) -> Setting | None:
    """The setting that a refusal is about: it names its key, or the path that cannot be bound, and goes with it."""
    for one in settings:
        names = (one.key, *_ALSO.get(one.key, ()))
        if not any(name in said.replace("-", "_") for name in (*names, "cannot bind")):
            continue
        try:
            _prepare([other for other in settings if other is not one], shape, place, python)
        except RefusedError as error:
            if str(error) == said:
                continue
        return one
    return None


def _prepare(settings: list[Setting], shape: Shape, place: Path, python: Path) -> Prepared:
    profile: dict[str, Any] = {"python": str(python), "gpus_per_node": 2, "scheduler": shape.scheduler}
    options: dict[str, Any] = {"nodes": shape.nodes, "gpus_per_node": 1, "time": "1:00:00", "max_requeues": 0}
    if shape.scheduler != "local":
        profile["launcher"] = shape.launcher
    if shape.runtime:
        profile["container"] = {"runtime": shape.runtime, "image": _plain_image(shape.runtime, place)}
    options |= {"job_dir": str(place / "runs"), "name": "a-job"}
    for one in settings:
        table = options if one.is_option else profile[one.within] if one.within else profile
        if one.key == "job_dir" and not one.is_option:
            options.pop("job_dir", None)
        table[one.key] = one.value
    lines = [f"{toml_key(key)} = {toml_value(value)}" for key, value in profile.items()]
    Path("vllm-hpc.toml").write_text("\n".join(["[profiles.p]", *lines, ""]))
    return prepare(rehearse=True, profile="p", **options)


def _plain_image(runtime: str, place: Path) -> str:
    if runtime in ("podman", "podman-hpc", "shifter"):
        return "docker:plain"
    image = place / {"charliecloud": "image", "pyxis": "image.sqsh"}.get(runtime, "image.sif")
    if runtime == "charliecloud":
        (image / "tmp").mkdir(parents=True, exist_ok=True)
    else:
        image.touch()
    return str(image)


def _variables(place: Path, desk: Path) -> dict[str, str]:
    """The environment of a script: the scheduler's, and what a node has."""
    scheduler = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[1-2]", "PBS_JOBID": "4711.server",
        "PBS_NODEFILE": f"{place}/hosts", "PBS_O_WORKDIR": str(desk), "VLLM_HPC_JOB_ID": "4711-1",
    }  # fmt: skip
    return {"PATH": f"{place}/bin:/usr/bin:/bin", "HOME": str(place), **scheduler, **VARIABLES}


def _tree(place: Path, prepared: Prepared) -> set[str]:
    """All that is there, but for the job's folder and what stand-ins keep."""
    found = set()
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if f"{folder}/{name}" not in (prepared.folder, str(place / "kept"))]
        found |= {f"{folder}/{name}" for name in (*folders, *files)}
    return found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('python = "python3.12"', "must be an environment"),
        ('python = "/a:b/python"', "must be an environment"),
        ('python = "/$H_COLON/python"', "must be an environment"),
        ('wrapper = ["/a=b/c"]', "must begin with a program, whose path cannot have a '='"),
        ('container = { image = "/a.sif", bundle = "/a:b" }', "container.bundle must be a path without ':'"),
        ('container = { image = "/a.sif", bundle = "/$H_COLON" }', "container.bundle must be a path without ':'"),
        ('container = { image = "a/$H_NODE", runtime = "podman" }', "container.image"),
        ('container = { image = "/a.sif", options = ["--a=$"] }', "after '$' must come a variable"),
        ('container = { image = "/a.sqsh", binds = ["$X/a b"] }', "pyxis cannot bind"),
        ('container = { image = "/i", runtime = "charliecloud", binds = ["${X:-/a:b}"] }', "charliecloud cannot bind"),
    ],
)
def test_what_would_not_arrive_is_refused(line: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("H_COLON", "x:y")
    Path("vllm-hpc.toml").write_text(f"[profiles.p]\n{line}\n")
    with pytest.raises(RefusedError) as refused:
        prepare(rehearse=True, profile="p", scheduler="slurm", name="a")
    assert words in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_bind_after_a_variable_is_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    container = '{ image = "/a.sif", binds = ["$X/a,b:/c"] }'
    Path("vllm-hpc.toml").write_text(f'[profiles.p]\ntorchrun_options = ["--x=1"]\ncontainer = {container}\n')
    prepared = prepare(rehearse=True, profile="p", scheduler="slurm", launcher="srun", name="a", job_dir=str(place))
    assert """'--mount="type=bind","source='""" in prepared.script
    assert """'/a,b","destination=/c"'""" in prepared.script
    assert any("not used by slurm: torchrun_options" in note for note in prepared.notes)


def test_passed_values_are_not_copied_before_the_node() -> None:
    """On PBS, what the script exports before gets into a file."""
    code = f"eval {shlex.quote(lifecycle_text())}\nexport H_PASSED=hidden\nimage_environment /a.sif '' H_PASSED\n"
    done = subprocess.run(["bash", "-c", f"{code}env"], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if "hidden" in line] == ["H_PASSED=hidden"]
