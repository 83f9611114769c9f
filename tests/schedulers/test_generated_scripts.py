"""Generated names, folders, values and binds through all templates and container wrappers to a real bash.

Each comes out unchanged, or is refused before: nothing of it is split, expanded or run on the way.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.jobs.submit import prepare
from vllm_hpc.spec.container import RUNTIMES
from vllm_hpc.spec.errors import RefusedError

pytestmark = pytest.mark.admins
CASES, SEED = 320, 26
PIECES = [
    "a", "B7", "model", " ", "  ", "$HOME", "$(touch ran)", "`touch ran`", "'", '"', "%", "#", "é", "日", "&", ";", "|",
    "*", "?", "~", "{{ x }}", "{%", "-", "!", "$$", "${X:-y}", "<", ">", ":", ",", "=", "[", "]", "(", ")", "+", ".",
    "@", "--", "#SBATCH", "EOF", "$'x'",
]  # fmt: skip
# What no name may have.
REFUSED = ["\n", "\t", "\\", "\x07", "\u2028", "%j"]
KINDS = [("slurm", "torchrun"), ("slurm", "srun"), ("pbs", "pbsdsh"), ("pbs", "mpiexec"), ("local", "torchrun")]
PROGRAMS = (
    "torchrun", "apptainer", "singularity", "podman", "podman-hpc", "shifter", "ch-run", "srun", "sh", "mpiexec",
    "pbsdsh",
)  # fmt: skip
# Keeps what it is told, and the environment that it has; a launcher's task is not run.
STUB = """#!/bin/sh
printf '%s\\0' "$@" > "$DUMP/argv-${0##*/}"
/usr/bin/env -0 > "$DUMP/env-${0##*/}"
"""
# In place of lifecycle.sh, whose own tests run it.
HARNESS = """
begin_attempt() { export VLLM_HPC_FOLDER="$job"; attempt=1; }
for name in rank_environment pbs_environment keep_passed restore_passed begin_ranks enter_image make_task \\
    make_task_file; do
  eval "$name() { :; }"
done
slurm_nodes() { nodes=(n1 n2); }
pbs_nodes() { nodes=(n1 n2) places=(0 1); }
hosts_file() { echo /hosts; }
add_suffix() { printf %s "$1$2"; }
image_environment() { printf '%s\\0' "$@" > "$DUMP/image"; export VLLM_HPC_IN_IMAGE=:; }
run_work() {
  task=(true) node=0
  (launch) < /dev/null
  wait
  if declare -f run_ranks > /dev/null; then (run_ranks); fi
}
"""


def piece(pick: random.Random) -> str:
    pieces = REFUSED if pick.random() < 0.05 else PIECES
    return "".join(pick.choice(pieces) for _ in range(pick.randint(1, 4)))


def perhaps(pick: random.Random, plain: str) -> str:
    """A plain name, or a generated one that begins with it."""
    return plain if pick.random() < 0.5 else plain + piece(pick) + plain


@pytest.fixture
def bin_folder(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that keep what they are told, first in PATH, and a python that knows a free port."""
    folder = desk / "stubs"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    (folder / "python").write_text('#!/bin/sh\n[ "$3" != torch.distributed.run ] || exec torchrun "$@"\necho 29500\n')
    (folder / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    return folder


def run(script: str, folder: Path, bin_folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What each program was told, and the environment of one that starts ranks, or a launcher."""
    text, found = re.subn(r'(?ms)^lifecycle=.*?^eval "\$lifecycle"$', lambda _: HARNESS, script)
    assert found == 1
    folder.mkdir()
    environment = {
        **os.environ,
        "DUMP": str(folder),
        "PATH": f"{bin_folder}:/usr/bin:/bin",
        "X": "wrong",
        "HOME": "/wrong",
    }
    environment |= {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    environment |= {"PBS_JOBID": "1", "VLLM_HPC_JOB_ID": "1"}
    done = subprocess.run(["/bin/bash", "-c", text], env=environment, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), script
    assert not (folder / "ran").exists(), script
    told = {file.name.removeprefix("argv-"): words(file) for file in folder.glob("argv-*")}
    # Not pbsdsh's: two of them run at once.
    last = next(name for name in (*PROGRAM.values(), "torchrun", "mpiexec", "sh") if name in told)
    variables = dict(one.split("=", 1) for one in words(folder / f"env-{last}"))
    return told, variables


def words(file: Path) -> list[str]:
    return file.read_bytes().decode().split("\0")[:-1]


def a_case(number: int, pick: random.Random, desk: Path) -> tuple[str, dict[str, Any], str]:
    """A profile, the options of a job with it, and the runtime; "" for none."""
    runtime = ["", *RUNTIMES][number % (len(RUNTIMES) + 1)]
    scheduler, launcher = KINDS[0] if runtime == "pyxis" else KINDS[number % len(KINDS)]
    lines = ["[profiles.p]", f'head_suffix = "{pick.choice(["", "-hsn"])}"']
    options: dict[str, Any] = {"scheduler": scheduler, "launcher": launcher, "nodes": 1 if scheduler == "local" else 2}
    if runtime:
        image = f"/images/{perhaps(pick, 'vllm')}".replace("$", "$$")
        binds = [f"/data/{piece(pick)}".replace("$", "$$").replace(":", "")] if pick.random() < 0.3 else []
        lines += ["[profiles.p.container]", f'runtime = "{runtime}"', f"image = {toml(image)}"]
        lines += [f"binds = [{', '.join(map(toml, binds))}]"]
    options |= {"name": perhaps(pick, "job"), "job_dir": f"/scratch/{perhaps(pick, 'runs')}"}
    options["env"] = {"WORDS": perhaps(pick, "w")}
    if scheduler != "local":
        options["account"] = perhaps(pick, "abc")
    return "\n".join(lines) + "\n", options, runtime


def toml(text: str) -> str:
    """A basic string of TOML, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=True)


def test_generated_values_reach_their_programs_or_are_refused(desk: Path, bin_folder: Path) -> None:
    pick, counts = random.Random(SEED), Counter[str]()
    for number in range(CASES):
        text, options, runtime = a_case(number, pick, desk)
        (desk / "vllm-hpc.toml").write_text(text, encoding="utf-8")
        try:
            prepared = prepare(rehearse=True, profile="p", **options)
        except RefusedError as error:
            assert "\n" not in str(error)
            counts["refused"] += 1
            continue
        told, variables = run(prepared.script, desk / f"dump-{number}", bin_folder)
        check(prepared.folder, options, runtime, told, variables)
        if runtime and runtime != "pyxis":
            image = words(desk / f"dump-{number}" / "image")[0]
            assert image in told[PROGRAM[runtime]] or f"--image={image}" in told[PROGRAM[runtime]]
        counts[runtime or "host"] += 1
    assert CASES - counts["refused"] >= 200, counts
    assert all(counts[name] >= 5 for name in ("host", *RUNTIMES)), counts


PROGRAM = {name: {"charliecloud": "ch-run", "pyxis": "srun"}.get(name, name) for name in RUNTIMES}


def check(
    folder: str, options: dict[str, Any], runtime: str, told: dict[str, list[str]], variables: dict[str, str]
) -> None:
    assert variables["WORDS"] == options["env"]["WORDS"]
    assert variables["VLLM_HPC_FOLDER"] == folder
    assert folder == f"{options['job_dir']}/{options['name']}"
    if not runtime:
        if options["launcher"] != "srun":
            assert told["torchrun"][-3:] == ["vllm_hpc.in_job", "rank", folder]
        return
    argv = told[PROGRAM[runtime]]
    if runtime == "pyxis":
        assert f"--container-workdir={folder}" in argv
        assert told["sh"][-2:] == ["rank", folder]
        return
    assert argv[-2:] == ["rank", folder]
    assert any(word in (f"--pwd={folder}", f"--workdir={folder}", f"--cd={folder}") for word in argv)
    assert any(folder in word for word in argv if word.startswith(("--bind", "--volume", "--mount")))
