"""The container runtimes, each as its own documentation has it."""

from __future__ import annotations

from vllm_hpc.schedulers.containers.runtime import ContainerRuntime, ImageRun
from vllm_hpc.spec.container import RUNTIMES, Bind
from vllm_hpc.spec.expand import with_defaults

# What a shell has where nothing is said: Charliecloud hands on the host's, and podman's image may have none.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_APPTAINER_GPU = {"nvidia": ("--nv",), "amd": ("--rocm",)}
_PODMAN_GPU = {
    "nvidia": ("--device=nvidia.com/gpu=all",),
    "amd": ("--device=/dev/kfd", "--device=/dev/dri", "--group-add=keep-groups"),
}


def apptainer_words(run: ImageRun) -> tuple[str, ...]:
    """Apptainer's, without the program: it hands on the environment, but for PATH, and mounts home and /tmp.

    Source: Apptainer 1.4's user guide, "Bind Paths and Mounts", "GPU Support"; SingularityCE 4 has the same.
    """
    gpu = () if {"--nv", "--rocm", "--nvccli"} & set(run.options) else _APPTAINER_GPU.get(run.gpu, ())
    binds = (_mount(bind) if _needs_csv(bind, ":,\\") else f"--bind={_colons(bind)}" for bind in run.binds)
    return ("exec", *gpu, f"--pwd={run.workdir}", *binds, *run.options, run.image)


def _with_program(program: str) -> ContainerRuntime:
    return ContainerRuntime(name=program, program=program, words=lambda run: (program, *apptainer_words(run)))


def podman_words(run: ImageRun, program: str = "podman") -> tuple[str, ...]:
    """Podman's: host network, process ids and shared memory, as ranks meet there; the image's entry point is not run.

    --env-host has the image's own values win, so that PATH is the image's (podman-run(1), --env).
    """
    gpu = ("--gpu",) if program == "podman-hpc" and run.gpu == "nvidia" else _PODMAN_GPU.get(run.gpu, ())
    binds = (_mount(bind) if _needs_csv(bind, ":") else f"--volume={_colons(bind)}" for bind in run.binds)
    return (
        program, "run", "--rm", *gpu, "--network=host", "--pid=host", "--ipc=host", "--security-opt=label=disable",
        "--env-host", f"--workdir={run.workdir}", *binds, *run.options, "--entrypoint=env", run.image,
    )  # fmt: skip


def podman_hpc_words(run: ImageRun) -> tuple[str, ...]:
    """NERSC's podman-hpc, which takes podman's words, and --gpu."""
    return podman_words(run, "podman-hpc")


def shifter_words(run: ImageRun) -> tuple[str, ...]:
    """Shifter's: it hands on the environment, of which the image's values win, PATH among them (src/shifter.c)."""
    binds = (f"--volume={_colons(bind)}" for bind in run.binds)
    return ("shifter", f"--image={run.image}", f"--workdir={run.workdir}", *binds, *run.options)


def charliecloud_words(run: ImageRun) -> tuple[str, ...]:
    """Charliecloud's: it hands on all of the environment, and reads the image's only if told to (ch-run(1))."""
    of_image = ("--set-env",) if run.has_environment else ()
    binds = (f"--bind={bind.host}:{bind.inside}" for bind in run.binds)
    return (
        "ch-run", "--unset-env=LD_LIBRARY_PATH", f"--set-env=PATH={_PATH}", *of_image, f"--cd={run.workdir}", *binds,
        *run.options, run.image, "--",
    )  # fmt: skip


def pyxis_words(run: ImageRun) -> tuple[str, ...]:
    """Pyxis's, which are options of srun (pyxis, args.c): enroot runs the whole task in the image."""
    mounts = ",".join(_colons(bind) for bind in run.binds)
    return (
        f"--container-image={run.image}", f"--container-mounts={mounts}", f"--container-workdir={run.workdir}",
        "--no-container-mount-home", "--no-container-remap-root", "--no-container-entrypoint", *run.options,
    )  # fmt: skip


def _colons(bind: Bind) -> str:
    return f"{bind.host}:{bind.inside}{':ro' if bind.read_only else ''}"


def _needs_csv(bind: Bind, letters: str) -> bool:
    """Whether its paths, or what is known of a variable, have what parts them."""
    text = "".join(map(with_defaults, (bind.host, bind.inside, bind.holds)))
    return any(letter in text for letter in letters)


def _mount(bind: Bind) -> str:
    """The longer form of a bind, whose fields are quoted as in CSV."""
    fields = ("type=bind", f"source={bind.host}", f"destination={bind.inside}", *(("ro",) if bind.read_only else ()))
    return "--mount=" + ",".join('"' + field.replace('"', '""') + '"' for field in fields)


_ALL = (
    _with_program("apptainer"),
    _with_program("singularity"),
    ContainerRuntime(name="podman", program="podman", words=podman_words, needs_tmp=True),
    ContainerRuntime(name="podman-hpc", program="podman-hpc", words=podman_hpc_words, needs_tmp=True),
    ContainerRuntime(
        name="shifter", program="shifter", words=shifter_words,
        # All others are dropped from a path, unasked (utility.c, userInputPathFilter).
        unfit="[^A-Za-z0-9_.+/-]",
    ),
    ContainerRuntime(
        name="charliecloud", program="ch-run", words=charliecloud_words, unfit=":", has_read_only=False,
    ),
    ContainerRuntime(
        name="pyxis", program="srun", words=pyxis_words, schedulers=("slurm",), is_of_srun=True, needs_tmp=True,
        # enroot writes a line of fstab for each.
        unfit=r"[\s,:\\]",
    ),
)  # fmt: skip
CONTAINER_RUNTIMES = {runtime.name: runtime for runtime in _ALL}
assert tuple(CONTAINER_RUNTIMES) == RUNTIMES
