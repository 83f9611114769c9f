"""Stand-ins of container runtimes that are not in Debian: each reads its command line as its documentation has it.

What it does not know it refuses, as the real one would. Then it runs the command, with the environment that the real
one would hand on. A file beside the program, NAME.json, has what it was told.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# What an image has as its own.
OF_IMAGE = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "OF_THE_IMAGE": "yes", "NCCL_DEBUG": "of the image",
    "SITE_LICENSE": "of the image",
}  # fmt: skip

INSTALLED = """#!{python} -P
import sys
sys.path.insert(0, {root!r})
from tests.containers.stand_in import main
main({name!r}, {folder!r})
"""


def install(folder: Path, name: str) -> Path:
    """Put the stand-in of that program into a folder, and return it."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    root = str(Path(__file__).parents[2])
    program.write_text(INSTALLED.format(python=sys.executable, root=root, name=name, folder=str(folder)))
    program.chmod(0o755)
    return program


def told(folder: Path, name: str) -> dict[str, object]:
    """What the stand-in was told by its last command line."""
    found: dict[str, object] = json.loads((folder / f"{name}.json").read_text())
    return found


def main(name: str, folder: str) -> None:
    run = PROGRAMS[name](sys.argv[1:])
    image, binds, workdir, command, environment = run
    for source, inside, _ in binds:
        if not Path(source).exists():
            sys.exit(f"{name}: no such file or directory: {source}")
        if not inside.startswith("/"):
            sys.exit(f"{name}: not absolute: {inside}")
    if image.startswith("/") and not Path(image).exists():
        sys.exit(f"{name}: no such image: {image}")
    said = {"image": image, "binds": binds, "workdir": workdir, "argv": sys.argv[1:]}
    (Path(folder) / f"{name}.json").write_text(json.dumps(said))
    os.chdir(workdir)
    os.execvpe(command[0], command, environment)


Run = tuple[str, list[tuple[str, str, str]], str, list[str], dict[str, str]]


def apptainer(argv: list[str]) -> Run:
    """``apptainer exec [options] IMAGE COMMAND...`` (apptainer exec --help): host's values win, but for PATH."""
    if argv[0] != "exec":
        sys.exit(f"apptainer: unknown command {argv[0]}")
    options, rest = options_of(argv[1:], {"--nv", "--rocm"}, {"--pwd", "--bind", "--mount"})
    binds = []
    for name, value in options:
        if name == "--bind":  # SRC[:DEST[:OPTS]][,...]; this is the part without escapes
            binds += [bind_of(one) for one in value.split(",")]
        elif name == "--mount":
            binds.append(mount_of(value))
    environment = {**OF_IMAGE, **os.environ, "PATH": OF_IMAGE["PATH"], "LD_LIBRARY_PATH": "/.singularity.d/libs"}
    return rest[0], binds, dict(options)["--pwd"], rest[1:], environment


def podman(argv: list[str]) -> Run:
    """``podman run [options] IMAGE [COMMAND]`` (podman-run(1)): without --env-host there is no host's environment."""
    if argv[0] != "run":
        sys.exit(f"podman: unrecognized command {argv[0]}")
    valued = {"--network", "--pid", "--ipc", "--security-opt", "--workdir", "--volume", "--mount", "--device",
              "--group-add", "--entrypoint"}  # fmt: skip
    options, rest = options_of(argv[1:], {"--rm", "--env-host", "--gpu"}, valued)
    names = [name for name, _ in options]
    assert {"--rm", "--network", "--pid", "--ipc"} <= set(names)
    binds = []
    for name, value in options:
        if name == "--volume":
            binds.append(bind_of(value))
        elif name == "--mount":
            binds.append(mount_of(value))
    host = dict(os.environ) if "--env-host" in names else {}
    # The entry point of vLLM's image is its server.
    entry = dict(options).get("--entrypoint", "vllm serve")
    return rest[0], binds, dict(options)["--workdir"], [entry, *rest[1:]], {**host, **OF_IMAGE}


def podman_hpc(argv: list[str]) -> Run:
    return podman(argv)


def shifter(argv: list[str]) -> Run:
    """``shifter [options] COMMAND...`` (src/shifter.c): the host's environment, over which the image's goes."""
    options, rest = options_of(argv, set(), {"--image", "--volume", "--workdir"})
    binds = []
    for name, value in options:
        if name == "--volume":
            # What userInputPathFilter keeps (src/utility.c): all else is dropped from the path.
            binds.append(bind_of(re.sub(r"[^A-Za-z0-9_:.+/-]", "", value)))
    if any(inside.startswith(("/etc", "/var", "/opt/udiImage")) for _, inside, _ in binds):
        sys.exit("shifter: Invalid Volume Map")
    return dict(options)["--image"], binds, dict(options)["--workdir"], rest, {**os.environ, **OF_IMAGE}


def srun(argv: list[str]) -> Run:
    """Pyxis's options of srun (args.c), which are taken out of what the real srun is told."""
    valued = {"--container-image", "--container-mounts", "--container-workdir"}
    flags = {"--no-container-mount-home", "--no-container-remap-root", "--no-container-entrypoint"}
    ours, rest = [], []
    for place, word in enumerate(argv):
        name, _, value = word.partition("=")
        if not word.startswith("-"):
            rest += argv[place:]
            break
        if name in valued or name in flags:
            ours.append((name, value))
        elif "container" in name:
            sys.exit(f"srun: unrecognized option '{word}'")
        else:
            rest.append(word)
    assert len({name for name, _ in ours}) == len(ours), "given twice"
    options = dict(ours)
    mounts = options["--container-mounts"].split(",")
    if any(re.search(r"\s", mount) for mount in mounts):
        sys.exit("pyxis: a space parts the fields of enroot's fstab")
    here = str(Path(sys.argv[0]).parent)
    real = next(f"{one}/srun" for one in os.environ["PATH"].split(":") if one != here and Path(one, "srun").exists())
    workdir = options["--container-workdir"]
    environment = {**os.environ, **OF_IMAGE}
    return options["--container-image"], list(map(bind_of, mounts)), workdir, [real, *rest], environment


def options_of(argv: list[str], flags: set[str], valued: set[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The options before the first word that is none, as --NAME or --NAME=VALUE; an unknown one ends this."""
    found: list[tuple[str, str]] = []
    for place, word in enumerate(argv):
        if not word.startswith("-"):
            return found, argv[place:]
        name, sign, value = word.partition("=")
        if not (name in valued if sign else name in flags):
            sys.exit(f"unknown flag: {word}")
        found.append((name, value))
    sys.exit("no image")


def bind_of(text: str) -> tuple[str, str, str]:
    """SRC:DEST[:ro]."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or parts[2:] not in ([], ["ro"], ["rw"]):
        sys.exit(f"invalid bind: {text!r}")
    return parts[0], parts[1], "".join(parts[2:])


def mount_of(text: str) -> tuple[str, str, str]:
    """type=bind,source=SRC,destination=DEST[,ro], as CSV."""
    (fields,) = csv.reader([text])
    values = dict(pairs(fields))
    if values.get("type") != "bind":
        sys.exit(f"invalid mount: {text!r}")
    return values["source"], values["destination"], "ro" if "ro" in values else ""


def pairs(fields: list[str]) -> Iterator[tuple[str, str]]:
    for field in fields:
        name, _, value = field.partition("=")
        yield name, value


PROGRAMS: dict[str, Callable[[list[str]], Run]] = {
    "apptainer": apptainer, "singularity": apptainer, "podman": podman, "podman-hpc": podman_hpc, "shifter": shifter,
    "srun": srun,
}  # fmt: skip
