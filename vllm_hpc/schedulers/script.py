"""Render a job's script from a Jinja template: one environment, its filters, one typed context."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import jinja2
import msgspec

from vllm_hpc import __version__
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.private import PRIVATE_UMASK
from vllm_hpc.schedulers.containers.words import container_words
from vllm_hpc.schedulers.launchers import get_launcher
from vllm_hpc.schedulers.lifecycle import sha256
from vllm_hpc.schedulers.memory_limit import memory_limit
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.script_context import ScriptContext
from vllm_hpc.schedulers.template_checks import check_blocks, check_script
from vllm_hpc.schedulers.template_environment import MOST_MEMORY, make_environment
from vllm_hpc.schedulers.template_folders import distinct_folders
from vllm_hpc.spec.errors import TemplateError
from vllm_hpc.spec.expand import has_variables, on_node
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.model_cache import cache_variables
from vllm_hpc.spec.plan import NodePart, Plan
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.qsub_lines import merge_variables, other_lines, resource_lines
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.values import megabytes, parse_walltime
from vllm_hpc.spec.words import counted

__all__ = ["FILTERS", "ScriptContext", "make_context", "render_job", "render_script"]
# What needs no quoting in a #SBATCH line.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_WIDTH = 100
_NOT_TOLD = NodePart()
_CONTEXT = frozenset(ScriptContext.__struct_fields__)


def render_job(job: ResolvedJob, plan: Plan, folder: JobFolder, lifecycle: str, needs: Sequence[Path] = ()) -> str:
    """Render a job's script, which runs this text of lifecycle.sh. Raises TemplateError with file and line.

    ``needs``: the folders that ranks read, and that are not in the job's. Raises RequestError if the container's
    runtime cannot bind one.
    """
    scheduler = get_scheduler(job.scheduler)
    context = make_context(job, plan.layout, folder, lifecycle, plan.part)
    if job.site.container is not None:
        words = container_words(job, job.site.container, folder.path, needs)
        context = msgspec.structs.replace(context, container_words=words)
    name = job.request.template or scheduler.template
    script = render_script(name, context, *distinct_folders(job.template_dirs), installed=scheduler.templates)
    return merge_variables(script) if scheduler.name == "pbs" else script


def make_context(
    job: ResolvedJob, layout: Layout, folder: JobFolder, lifecycle: str, part: NodePart = _NOT_TOLD
) -> ScriptContext:
    """The values for a template: those of the profile, the request and the layout by name, and derived ones."""
    request, launcher = job.request, get_launcher(job.launcher)
    tasks_per_node = launcher.tasks_per_node(layout.procs_per_node)
    cores, memory = _share_of_node(job.site, layout, tasks_per_node, part)
    named: dict[str, Any] = {}
    for values in (job.site, request, layout):  # the layout has the last word on nodes, GPUs, TP, PP and DP
        named |= {key: getattr(values, key) for key in values.__struct_fields__ if key in _CONTEXT}
    varying = {name for name in job.site_env if has_variables(request.env[name])}
    derived = {
        "title": f"Rendered by vllm-hpc {__version__} for {ascii(folder.path.name)[1:-1]}{_what_runs(job, layout)}.",
        "name": folder.path.name,
        "folder": str(folder.path),
        "scheduler_log": str(folder.scheduler_log),
        "bin": str(Path(job.site.python or sys.executable).expanduser().parent),
        "gpus_per_node": _gpus_to_ask(job.site, layout),
        "env": cache_variables(request, job.site)
        | {name: value for name, value in request.env.items() if name not in varying},
        "site_env": {name: value for name, value in request.env.items() if name in varying},
        "world_size": layout.world_size,
        "tasks": layout.tasks,
        "tasks_per_node": tasks_per_node,
        "cpus_per_task": _cores_of_task(job, layout, tasks_per_node, cores),
        "mem": request.mem or memory,
        "time_limit_s": parse_walltime(request.time) if request.time else None,
        "lead_s": request.lead_s,
        "directives": (*job.site.directives, *request.directive),
        "resources": tuple(_filled(text, layout) for text in job.site.resources),
        "launcher": job.launcher,
        "container": job.site.container,
        "wrapper": (*launcher.wrapper, *job.site.wrapper),
        "umask": f"{PRIVATE_UMASK:03o}" if request.private else _umask(),
        "lifecycle_sha256": sha256(lifecycle),
    }
    return ScriptContext(**named | derived)


def _what_runs(job: ResolvedJob, layout: Layout) -> str:
    """What a title says of a job that runs no rows."""
    return f": a script on {counted(layout.world_size, 'rank')}" if job.runs_script else ""


def _cores_of_task(job: ResolvedJob, layout: Layout, tasks: int, share: int | None) -> int | None:
    """Cores of each of a node's tasks: those of its ranks, or more where the job has the whole node; else its share."""
    if not job.request.cpus_per_rank:
        return share
    wanted = job.request.cpus_per_rank * layout.procs_per_node // tasks
    return max(wanted, share or 0) if job.site.whole_nodes else wanted


def _share_of_node(site: Profile, layout: Layout, tasks: int, part: NodePart) -> tuple[int | None, str | None]:
    """The cores of each of a node's tasks, and its memory, that belong to its GPUs in the job.

    None where neither the profile nor the scheduler (``part``) says what a node has, or where a PBS queue gives both.
    """
    if site.gpu_request == "queue":
        return None, None
    cores, memory = part.cores or 0, part.memory_mb or 0
    if site.mem_per_gpu:
        memory = megabytes(site.mem_per_gpu) * _gpus_to_ask(site, layout)
    if site.gpus_per_node is not None:
        gpus = site.gpus_per_node if site.exclusive or site.whole_nodes else layout.gpus_per_node
        if site.cpus_per_node:
            cores = site.cpus_per_node * gpus // site.gpus_per_node
        if site.mem_per_node and not site.mem_per_gpu:
            memory = megabytes(site.mem_per_node) * gpus // site.gpus_per_node
    at_least = layout.procs_per_node // tasks
    return max(cores // tasks, at_least) if cores else None, f"{memory}M" if memory else None


def _gpus_to_ask(site: Profile, layout: Layout) -> int:
    """GPUs of a node to ask for: all of them where the node is billed whole."""
    return site.gpus_per_node or layout.gpus_per_node if site.whole_nodes else layout.gpus_per_node


def _umask() -> str:
    """This process's umask, which a job of PBS does not have by itself: there it would be 077."""
    umask = os.umask(0o077)
    os.umask(umask)
    return f"{umask:03o}"


def _filled(resource: str, layout: Layout) -> str:
    """A resource of the profile with the layout's numbers filled in."""
    gpus = layout.nodes * layout.gpus_per_node
    return resource.replace("{nodes}", str(layout.nodes)).replace("{gpus}", str(gpus))


def render_script(template: str, context: ScriptContext, *folders: str | Path, installed: Path | None = None) -> str:
    """Render the template of that name, searched in ``folders`` first, then among the packaged ones.

    The folders are layers, highest first: a template may extend the one of its own name in the next that has one, and
    the packaged one as ``packaged/NAME``. It gets the context as ``job`` and the launcher object as ``launcher``. The
    script is checked with ``bash -n``. Of a package that adds the scheduler, ``installed`` is the folder.
    Raises TemplateError with file and line.
    """
    launcher = get_launcher(context.launcher)
    own = [*folders, *([installed] if installed else [])]
    missing = next((folder for folder in own if not Path(folder).is_dir()), None)
    if missing is not None:
        raise TemplateError(f"no such template folder: {str(missing)!r}")
    with as_file(files("vllm_hpc") / "templates") as packaged:
        environment = make_environment(packaged, folders, installed, FILTERS)
        try:
            with memory_limit(MOST_MEMORY) if own else nullcontext():
                script = environment.render_script(template, job=context, launcher=launcher)
            if own:
                check_blocks(environment, template)
            check_script(script, template)
            return script
        except TemplateError:
            raise
        except jinja2.TemplateNotFound as error:
            raise TemplateError(environment.layers.why_missing(str(error.name))) from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{error.filename or error.name}:{error.lineno}: {error.message}") from None
        except RecursionError:
            raise TemplateError(
                f"template {template!r} extends or includes itself by way of another: extend its own name, which is "
                f"the next folder's, or 'packaged/{template}'"
            ) from None
        except Exception as error:  # noqa: BLE001 - a template is its author's code, and may raise anything
            raise TemplateError(f"{_place(error, template)}: cannot be rendered: {_words(error)}") from None


def sh(value: object) -> str:
    """Quote a value for a line that a shell reads, or for a #PBS line: qsub takes quotes as a shell does.

    Use it outside quotes. (OpenPBS 23.06, src/cmds/qsub.c, make_argv: within quotes nothing has a meaning.) What is not
    ASCII is written in octal, for the sites whose qsub refuses it in a script; no #PBS line has any.
    """
    text = str(value)
    if text.isascii():
        return shlex.quote(text)
    return "$'" + "".join(_in_octal(byte) for byte in text.encode("utf-8", "surrogateescape")) + "'"


def _in_octal(byte: int) -> str:
    """A byte of a word in $'...': itself if it is ASCII that can be printed and has no meaning there."""
    return chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\{byte:03o}"


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


def command(words: Iterable[str]) -> str:
    """Words of a shell's line, quoted already, in lines that can be read: continued where they get long."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n    ".join(lines)


# What a template may write after a value: {{ job.folder|sh }}.
FILTERS: dict[str, Callable[..., Any]] = {
    "sh": sh, "directive": directive, "word": word, "clock": clock, "size": size, "jobname": jobname,
    "command": command, "counted": counted, "on_node": on_node, "resource_lines": resource_lines,
    "other_lines": other_lines,
}  # fmt: skip


def _words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"it takes more than {MOST_MEMORY >> 20} MiB of memory"
    return " ".join(str(error).split()) or type(error).__name__


def _place(error: Exception, template: str) -> str:
    """File and line of the template that raised: Jinja rewrites tracebacks to say so."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename.endswith(".j2") or frame.filename == "<template>"]
    return f"{inside[-1].filename}:{inside[-1].lineno}" if inside else f"template {template!r}"
