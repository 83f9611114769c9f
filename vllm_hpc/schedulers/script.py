"""Render a job's script from a Jinja template: one environment, two quoting filters, one typed context."""

from __future__ import annotations

import re
import shlex
import traceback
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path

import jinja2
import msgspec
from jinja2.bccache import Bucket, FileSystemBytecodeCache

from vllm_hpc import __version__
from vllm_hpc.spec.errors import TemplateError
from vllm_hpc.spec.user_cache import cache_folder

# What needs no quoting in a #SBATCH line.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


class ScriptContext(msgspec.Struct, frozen=True, kw_only=True):
    """All that a template can use, as ``job``. Paths are absolute; ``mem`` and ``time`` are as the user wrote them."""

    title: str
    name: str
    folder: str
    scheduler_log: str
    bin: str
    nodes: int
    gpus_per_node: int
    procs_per_node: int
    world_size: int
    tp: int
    pp: int
    dp: int
    cpus_per_rank: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    gpu_flag: str = "gpus-per-node"
    exclusive: bool = False
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    env: dict[str, str] = {}
    launcher: str = "torchrun"
    is_array: bool = False
    tasks_per_node: int = 1
    time_limit_s: int | None = None
    tasks: int = 1
    head_suffix: str = ""
    head_command: str | None = None
    export_environment: bool = True
    max_requeues: int = 10
    lead_s: int = 120
    gpu_request: str = "select"
    account_flag: str = "-A"
    chunk: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    launcher_options: tuple[str, ...] = ()

    @property
    def cores(self) -> int | None:
        """Cores to ask for on each node, of PBS: one a rank at least; None where the queue decides."""
        return None if self.gpu_request == "queue" else self.cpus_per_task or self.procs_per_node

    @property
    def asks_for_gpus(self) -> bool:
        """Whether PBS is asked for GPUs by number; else the queue gives them, or there are none."""
        return self.gpu_request != "queue" and self.gpu_flag != "none"


def render_script(template: str, context: ScriptContext, template_dir: str | None = None) -> str:
    """Render the template of that name, searched in ``template_dir`` first, then among the packaged ones.

    A template in ``template_dir`` may extend the packaged one of the same name as ``packaged/NAME``.
    Raises TemplateError with file and line.
    """
    if template_dir is not None and not Path(template_dir).is_dir():
        raise TemplateError(f"no such template folder: {template_dir!r}")
    with as_file(files("vllm_hpc") / "templates") as packaged:
        environment = _environment(packaged, template_dir)
        try:
            return environment.get_template(template).render(job=context)
        except jinja2.TemplateNotFound as error:
            raise TemplateError(
                f"no such template: {error.name!r}: vllm-hpc looks in --template-dir, then in its own"
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{error.filename or error.name}:{error.lineno}: {error.message}") from None
        except RecursionError:
            raise TemplateError(
                f"template {template!r} extends or includes itself: extend 'packaged/{template}'"
            ) from None
        except Exception as error:  # noqa: BLE001 - a template is code of its author's, and raises what it likes
            raise TemplateError(f"{_place(error, template)}: does not render: {error}") from None


def sh(value: object) -> str:
    """Quote a value for a line that a shell reads, or for a #PBS line: qsub takes quotes as a shell does.

    Use it outside quotes. (OpenPBS 23.06, src/cmds/qsub.c, make_argv: within quotes nothing has a meaning.)
    """
    return shlex.quote(str(value))


def directive(value: object) -> str:
    """Quote a file name for a #SBATCH line: as ``word`` does, and with ``%``, a pattern there, doubled."""
    return word(value).replace("%", "%%")


def word(value: object) -> str:
    r"""Quote any other value for a #SBATCH line, which no shell reads. Use it outside quotes.

    In double quotes sbatch takes all as it is but for ``\"`` and ``\\``; outside them a backslash does not hold a
    space together (tried on Slurm 22.05; src/sbatch/opt.c, _get_argument).
    """
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def clock(seconds: int) -> str:
    """A walltime as PBS takes it: HH:MM:SS, with as many hours as there are."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def size(memory: str, times: int = 1) -> str:
    """An amount of memory as PBS takes it: 64G is 64gb, and a plain number Slurm's megabytes."""
    digits = re.match("[0-9]*", memory)
    number, unit = digits[0] if digits else "", memory.upper().rstrip("B").lstrip("0123456789")
    return f"{int(number) * times}{(unit or 'M').lower()}b"


def jobname(name: str) -> str:
    """A job's name as PBS takes it: letters, digits and ``-_+.``, a letter first (tried on OpenPBS 23.06)."""
    plain = re.sub(r"[^A-Za-z0-9_+.-]", "_", name)
    return plain if plain[:1].isalpha() else f"job-{plain}"


def _place(error: Exception, template: str) -> str:
    """File and line of the template that raised: Jinja rewrites tracebacks to say so."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename.endswith(".j2") or frame.filename == "<template>"]
    return f"{inside[-1].filename}:{inside[-1].lineno}" if inside else f"template {template!r}"


class _CompiledTemplates(FileSystemBytecodeCache):
    """Jinja's cache of compiled templates: to compile is the larger part of rendering (27 of 33 ms).

    Jinja compares a digest of the template's source and the version of its byte code; ours, in the folder's name,
    stands for the environment's options.
    """

    @classmethod
    def of_user(cls) -> _CompiledTemplates | None:
        """The cache below the user's cache folder, None where no folder can be made there."""
        try:
            folder = cache_folder() / f"templates-{__version__}"
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        return cls(str(folder))

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):  # a full or a read-only disk costs the next render some time, and nothing else
            super().dump_bytecode(bucket)


def _environment(packaged: Path, template_dir: str | None) -> jinja2.Environment:
    own = jinja2.FileSystemLoader(packaged)
    loaders: list[jinja2.BaseLoader] = [jinja2.FileSystemLoader(template_dir)] if template_dir else []
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([*loaders, own, jinja2.PrefixLoader({"packaged": own})]),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # shell scripts, not HTML: |sh and |directive do the quoting
        trim_blocks=False,
        keep_trailing_newline=True,
        bytecode_cache=_CompiledTemplates.of_user(),
    )
    environment.filters.update(sh=sh, directive=directive, word=word, clock=clock, size=size, jobname=jobname)
    return environment
