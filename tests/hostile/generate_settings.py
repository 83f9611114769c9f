"""Hostile values for every place of a profile and of options that gets into a script, each with what must arrive."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.hostile.cases import CANARY
from tests.hostile.read_words import binds_of, images_of, program_of
from tests.hostile.run_script import NODES, Ran, install_python, install_wrapper

_RUN = f"touch {CANARY}"
_PIECES = (
    "'", '"', f"$({_RUN})", f"`{_RUN}`", "$HOME", "${IFS}", "$", "$$", "\\", "\\n", "\\'", "*", "?", "[ab]", "{a,b}",
    " ", "  ", "%", "%%", "%n", "!", "!!", "#", " # ", ";", f"; {_RUN};", "&", f"| {_RUN} ", f">{CANARY}", "<", "(",
    ")", "~", "-", "--x", "=", ":", ",", "é", "日本", "e\u0301", "{{ 1 }}", "{% x %}", "''", '""', "^", "@", "a+", "a",
    "b c", "1", "a" * 90, "$'\\n'", "</", "EOF", "\u00a0", ".", "..", "|", "}", "$(", "`",
)  # fmt: skip
_UNPRINTABLE = ("\n", "\t", "\x1b[2J", "\u202e", "\x07", "\x7f", f"\n{_RUN}\n", "\r")
# What a submitter's and a node's variables hold: on a node also what no profile may.
VARIABLES = {
    "H_SUBMITTED": "it's  $HOME `x` \"y\" *", "H_NODE": f"a  'b' \"c\" $({_RUN}) `{_RUN}` \\ * $HOME\nd é",
    "H_FOLDER": f"/scratch/o'brien  $({_RUN}) *", "H_PASSED": f"'a'  \"b\" $({_RUN})\n\\ *\t`{_RUN}` é",
    "H_SECRET": f"p'w\"  $({_RUN})\n*",
}  # fmt: skip


class Shape(NamedTuple):
    """What a script is for."""

    scheduler: str
    launcher: str
    runtime: str | None = None

    @property
    def nodes(self) -> int:
        return 1 if self.scheduler == "local" else len(NODES)


class Setting(NamedTuple):
    """A value of a profile, or of an option; ``found`` says what has come of it, which must be ``expected``.

    ``key`` is what a refusal must name, ``within`` the table of the profile that has it.
    """

    key: str
    value: Any
    found: Callable[[Ran], Any]
    expected: Any
    is_option: bool = False
    within: str = ""


class Text(NamedTuple):
    """A text as it is given, and as it must arrive."""

    given: str
    arrives: str


class Maker:
    """Makes settings from a seed. ``place`` is a folder for what they name, ``kept`` that of what programs keep."""

    def __init__(self, random: Random, shape: Shape, place: Path, kept: Path) -> None:
        self.random, self.shape, self.place, self.kept = random, shape, place, kept
        self.pbs, self.slurm = shape.scheduler == "pbs", shape.scheduler == "slurm"

    # -- texts -------------------------------------------------------------------------------------------------------

    def word(self) -> str:
        """A hostile text, now and then one that cannot be on a line, or is very long."""
        chance = self.random.random()
        if chance < 0.04:
            return f"a{self.random.choice(_UNPRINTABLE)}b"
        if chance < 0.06:
            return "x'y " * 800
        pieces = [self.random.choice(_PIECES) for _ in range(self.random.randint(1, 5))]
        found = "".join(pieces)
        if self.pbs and chance < 0.9:  # all of whose lines are ASCII
            found = found.encode("ascii", "ignore").decode()
        return found.strip() or "'"

    def name(self) -> str:
        """The same as a name in a folder; most that paths cannot have is left out."""
        word = self.word().replace("/", "_")
        if self.random.random() < 0.9:
            word = word.replace("\\", "").replace(":", ";").lstrip("-.~")
        return word.encode()[:180].decode(errors="ignore").strip() or "it's"

    def expanded(self, *names: str) -> Text:
        """A text with variables in it, of these names, and all other dollars doubled."""
        given = arrives = ""
        for _ in range(self.random.randint(1, 3)):
            word, chance = self.word(), self.random.random()
            given, arrives = given + word.replace("$", "$$"), arrives + word
            if chance < 0.4 and names:
                name = self.random.choice(names)
                given, arrives = given + f"${{{name}}}", arrives + VARIABLES[name]
            elif chance < 0.6:
                given, arrives = given + "${H_UNSET:-/d:e-f}", arrives + "/d:e-f"
        return Text(given, arrives)

    def folder(self) -> Path:
        """A folder with a hostile name, which is there."""
        path = self.place / f"{self.random.randrange(10**6)}" / self.name()
        path.mkdir(parents=True, exist_ok=True)
        return path

    def quoted(self, word: str) -> str:
        """For a line of options, as a user would quote it."""
        if self.pbs:
            return shlex.quote(word)
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'

    # -- what the scheduler is asked ---------------------------------------------------------------------------------

    def account(self) -> Setting:
        if self.random.random() < 0.5:
            word = self.word()
            return Setting("account", word, self._asked("--account=", "-A "), [word], is_option=True)
        text = self.expanded("H_SUBMITTED")
        return Setting("account", text.given, self._asked("--account=", "-A "), [text.arrives])

    def partition(self) -> Setting:
        word = self.word()
        option = self.random.random() < 0.5
        return Setting("partition", word, self._asked("--partition=", "-q "), [word], is_option=option)

    def qos(self) -> Setting:
        word = self.word()
        return Setting("qos", word, self._asked("--qos="), [word])

    def directive(self) -> Setting:
        word = self.word()
        line = f"-M {self.quoted(word)}" if self.pbs else f"--comment={self.quoted(word)}"
        return Setting("directive", [line], self._asked("--comment=", "-M "), [word], is_option=True)

    def directives(self) -> Setting:
        word = self.word()
        given = word.replace("$", "$$")
        line = f"-u {self.quoted(given)}" if self.pbs else f"--mail-user={self.quoted(given)}"
        return Setting("directives", [line], self._asked("--mail-user=", "-u "), [word])

    def gpu_type(self) -> Setting:
        word = self.random.choice((self.word(), "h100", "nvidia_a100-sxm4.80gb"))
        return Setting("gpu_type", word, self._asked("--gpus-per-node="), [f"{word}:1"])

    def resources(self) -> Setting:
        word = self.random.choice((self.word(), "home:eagle", "a+b@c=%"))
        return Setting("resources", [f"filesystems={word.replace('$', '$$')}"], self._asked("-l filesystems="), [word])

    def chunk(self) -> Setting:
        word = self.random.choice((self.word(), "polaris", "a@b/%.c"))
        return Setting("chunk", [f"system={word.replace('$', '$$')}"], lambda ran: _parts(ran, "system"), [word])

    def _asked(self, *options: str) -> Callable[[Ran], list[str]]:
        return lambda ran: ran.asked(*options)

    # -- words of launchers ------------------------------------------------------------------------------------------

    def srun_options(self) -> Setting:
        words = [f"--comment={self.word()}", f"-C{self.word()}"]
        return Setting("srun_options", words, lambda ran: _within(ran.of("srun"), words), True)

    def torchrun_options(self) -> Setting:
        words = [f"--log-line-prefix-template={self.word()}", f"--monitor-interval={self.word()}"]
        return Setting("torchrun_options", words, lambda ran: _within(ran.ranks, words), True)

    def launcher_options(self) -> Setting:
        words = [self.word(), self.word()]
        return Setting("launcher_options", words, lambda ran: _within(_launcher(ran, self.shape), words), True)

    def cpu_bind(self) -> Setting:
        word = self.word()
        return Setting("cpu_bind", word, lambda ran: _within(ran.of("srun"), [f"--cpu-bind={word}"]), True)

    def wrapper(self) -> Setting:
        program = self.folder() / self.name()
        words = [str(self.random.randint(1, 3)), self.word(), self.word(), self.word()]
        words = words[: int(words[0]) + 1]
        if program.name.isprintable():
            install_wrapper(program, self.kept)
        found = lambda ran: {tuple(one.words[: len(words)]) for one in ran.of("wrapper")}  # noqa: E731
        return Setting("wrapper", [str(program), *words], found, {tuple(words)})

    def head_suffix(self) -> Setting:
        word = self.random.choice((self.word(), "-hsn0", ".hsn.example", "-1"))
        head = NODES[0] if NODES[0].endswith(word) else NODES[0] + word
        return Setting("head_suffix", word, lambda ran: ran.variable("VLLM_HPC_HEAD"), head)

    # -- the environment ---------------------------------------------------------------------------------------------

    def env(self) -> Setting:
        word = self.word()
        return Setting("env", {"H_ENV": word}, lambda ran: ran.variable("H_ENV"), word, is_option=True)

    def site_env(self) -> Setting:
        text = self.expanded("H_NODE", "H_SUBMITTED")
        return Setting("env", {"H_SITE": text.given}, lambda ran: ran.variable("H_SITE"), text.arrives)

    def setup(self) -> Setting:
        word = self.word()
        return Setting("setup", [f"export H_SETUP={shlex.quote(word)}"], lambda ran: ran.variable("H_SETUP"), word)

    def node_setup(self) -> Setting:
        word = self.word()
        line = f"export H_EACH={shlex.quote(word)}"
        return Setting("node_setup", [line], lambda ran: ran.variable("H_EACH"), word)

    def head_command(self) -> Setting:
        word = self.random.choice(("node-9", "10.0.0.1"))
        line = f": {shlex.quote(self.word())}; echo {word}"
        return Setting("head_command", line, lambda ran: ran.variable("VLLM_HPC_HEAD"), word)

    def pass_env(self) -> Setting:
        expected = VARIABLES["H_PASSED"]
        return Setting("pass_env", ["H_PASSED"], lambda ran: ran.variable("H_PASSED"), expected, is_option=True)

    def secrets(self) -> Setting:
        return Setting("secrets", ["H_SECRET"], lambda ran: ran.variable("H_SECRET"), VARIABLES["H_SECRET"])

    # -- names and folders -------------------------------------------------------------------------------------------

    def job_name(self) -> Setting:
        name = self.name()
        return Setting("name", name, lambda ran: Path(str(ran.variable("VLLM_HPC_FOLDER"))).name, name, is_option=True)

    def job_dir(self) -> Setting:
        path = str(self.folder())
        found = lambda ran: str(Path(str(ran.variable("VLLM_HPC_FOLDER"))).parent)  # noqa: E731
        if self.random.random() < 0.5:
            return Setting("job_dir", path, found, path, is_option=True)
        return Setting("job_dir", path.replace("$", "$$"), found, path)

    def cache_dir(self) -> Setting:
        path = self.folder()
        found = lambda ran: (ran.variable("VLLM_HPC_CACHE_DIR"), ran.variable("HF_HUB_CACHE"))  # noqa: E731
        expected = (str(path), f"{path}/huggingface/hub")
        return Setting("cache_dir", str(path).replace("$", "$$"), found, expected)

    def scratch(self) -> Setting:
        path = str(self.folder())
        found = lambda ran: {str(Path(one.variables["VLLM_HPC_SCRATCH"]).parent) for one in ran.ranks}  # noqa: E731
        return Setting("scratch", path.replace("$", "$$"), found, {path})

    def python(self) -> Setting:
        path = str(install_python(self.folder(), self.kept))
        found = lambda ran: {one.variables["H_PYTHON"] for one in ran.ranks}  # noqa: E731
        return Setting("python", path.replace("$", "$$"), found, {path})

    def template_dir(self) -> Setting:
        folder, word = self.folder(), self.word()
        name = {"slurm": "slurm.sbatch.j2", "pbs": "pbs.sh.j2", "local": "local.sh.j2"}[self.shape.scheduler]
        block = "{% block environment %}{{ super() }}\nexport H_TEMPLATE={{ " + repr(word) + "|sh }}{% endblock %}"
        (folder / name).write_text(f'{{% extends "packaged/{name}" %}}{block}\n')
        value = str(folder) if self.random.random() < 0.5 else str(folder).replace("$", "$$")
        is_option = value == str(folder)
        return Setting("template_dir", value, lambda ran: ran.variable("H_TEMPLATE"), word, is_option=is_option)

    # -- the image ---------------------------------------------------------------------------------------------------

    def image(self) -> Setting:
        runtime = self.shape.runtime
        if runtime == "charliecloud":
            image = str(self.folder())
            Path(image, "tmp").mkdir(exist_ok=True)
        elif runtime in ("apptainer", "singularity", "pyxis"):
            file = self.folder() / ("a.sqsh" if runtime == "pyxis" else "a.sif")
            file.touch()
            image = str(file)
        else:
            image = f"docker:{self.word()}"
        found = lambda ran: images_of(ran, runtime)  # noqa: E731
        return Setting("image", image.replace("$", "$$"), found, {image}, within="container")

    def binds(self) -> Setting:
        inside, name = f"/data/{self.name()}", self.name()
        host = Text(f"$H_FOLDER/{name.replace('$', '$$')}", f"{VARIABLES['H_FOLDER']}/{name}")
        # What is in a variable of the node, no runtime's rules are known to have been kept for.
        if self.random.random() < 0.6 or self.shape.runtime == "pyxis":
            path = f"/host/{name}"
            host = Text(path.replace("$", "$$"), path)
        flag = ":ro" if self.random.random() < 0.5 else ""
        value = [f"{host.given}:{inside.replace('$', '$$')}{flag}"]
        expected = (host.arrives, inside, flag.lstrip(":"))
        found = lambda ran: expected in binds_of(ran, self.shape.runtime)  # noqa: E731
        return Setting("binds", value, found, True, within="container")

    def options(self) -> Setting:
        text = self.expanded("H_NODE")
        words = [f"--label={text.arrives}"]
        value = [f"--label={text.given}"]
        found = lambda ran: _within(ran.of(program_of(self.shape.runtime)), words)  # noqa: E731
        return Setting("options", value, found, True, within="container")

    def image_python(self) -> Setting:
        path = str(install_python(self.folder(), self.kept))
        found = lambda ran: {one.variables["H_PYTHON"] for one in ran.ranks}  # noqa: E731
        return Setting("python", path, found, {path}, within="container")

    def bundle(self) -> Setting:
        folder = self.folder()
        (folder / "first").mkdir(exist_ok=True)
        found = lambda ran: (ran.variable("VLLM_HPC_BUNDLE"), ran.variable("PYTHONPATH"))  # noqa: E731
        expected = (str(folder), f"{folder}/first")
        return Setting("bundle", str(folder).replace("$", "$$"), found, expected, within="container")


def _parts(ran: Ran, name: str) -> list[str]:
    """The values of a part of select=."""
    parts = [part for text in ran.asked("-l select=") for part in text.split(":")]
    return [part.removeprefix(f"{name}=") for part in parts if part.startswith(f"{name}=")]


def _within(records: list[Any], words: list[str]) -> bool:
    """Whether all of them were given these words, one behind the other."""
    size = len(words)
    return bool(records) and all(
        any(one.words[place : place + size] == words for place in range(len(one.words))) for one in records
    )


def _launcher(ran: Ran, shape: Shape) -> list[Any]:
    return ran.of({"openmpi": "mpirun"}.get(shape.launcher, shape.launcher))
