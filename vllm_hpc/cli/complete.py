"""What the shell's Tab completes: jobs, profiles, GPUs, partitions, templates and files.

It reads files alone: no scheduler is asked, and what cannot be read completes to nothing. A shell waits for it, so
each function imports only what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from vllm_hpc.spec.errors import VllmHpcError

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
# A list longer than this helps nobody.
_MOST = 500


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names under --job-dir, the user's jobs elsewhere by name and id, and folders once there is a slash."""
    if "/" in incomplete or incomplete.startswith(("~", ".")):
        return _folders(ctx, param, incomplete)
    found = dict.fromkeys(sorted(_names_under(_job_dir(ctx))), "")
    for known in reversed(_known()):
        found.setdefault(known.name, known.path)
        for job_id in known.ids if incomplete else ():
            found.setdefault(job_id, known.name)
    return _items(found, incomplete, but=ctx.params.get(param.name or "")) or _folders(ctx, param, incomplete)


def complete_profile(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The profiles of the project, the user and the site, and of the gallery once its prefix is typed."""
    from vllm_hpc.spec.config_files import GALLERY
    from vllm_hpc.spec.profile_files import all_names

    with suppress(VllmHpcError, OSError):
        names = sorted(all_names())
        own = [name for name in names if not name.startswith(GALLERY)]
        return _items(names if incomplete or not own else own, incomplete)
    return []


def complete_gpu(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The GPUs that are known by name."""
    from vllm_hpc.spec.gpus import ALIASES, GPUS

    return _items(sorted({*GPUS, *ALIASES}), incomplete)


def complete_partition(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The queues that the profile has: the scheduler itself is not asked."""
    from vllm_hpc.spec.job_definition import profile_in_use
    from vllm_hpc.spec.profile_layers import load_profile

    with suppress(VllmHpcError, OSError):
        name = profile_in_use(ctx.params.get("profile"))
        queues = load_profile(name).queues if name else {}
        return _items({one: queue.description or "" for one, queue in queues.items()}, incomplete)
    return []


def complete_template(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The templates of this package, and those in --template-dir and the profile's folders."""
    from vllm_hpc.schedulers.template_folders import files_in, known_names
    from vllm_hpc.spec.job_definition import profile_in_use
    from vllm_hpc.spec.profile_layers import load_profile

    folders = [ctx.params.get("template_dir")]
    with suppress(VllmHpcError, OSError):
        name = profile_in_use(ctx.params.get("profile"))
        folders += [load_profile(name).template_dir] if name else []
    names = {name for name in known_names() if not name.startswith("_")}
    for folder in filter(None, folders):
        with suppress(OSError):
            names |= {name for name in files_in(Path(folder).expanduser()) if not name.startswith("_")}
    return _items(sorted(names), incomplete)


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """'demo', and folders."""
    return [*_items(["demo"] if incomplete else [], incomplete), *_folders(ctx, param, incomplete)]


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, by the shell itself."""
    return [CompletionItem(incomplete, type="file")]


def complete_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders, by the shell itself."""
    return _folders(ctx, param, incomplete)


def complete_state(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """States of jobs, also after a comma."""
    from typing import get_args

    from vllm_hpc.jobs.task_states import State

    before, comma, begun = incomplete.rpartition(",")
    return _items([f"{before}{comma}{state}" for state in get_args(State)], f"{before}{comma}{begun.upper()}")


def _folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


def _items(found: Iterable[str] | dict[str, str], incomplete: str, but: Any = None) -> list[CompletionItem]:
    """Those that begin so, without what a shell would take for two words or a line of its own."""
    given = set(but) if isinstance(but, (list, tuple)) else set()
    helps = found if isinstance(found, dict) else dict.fromkeys(found, "")
    fit = [name for name in helps if name.startswith(incomplete) and name.isprintable() and name not in given]
    return [CompletionItem(name, help=_one_line(helps[name]) or None) for name in fit[:_MOST]]


def _one_line(text: str) -> str:
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _job_dir(ctx: click.Context) -> str:
    from vllm_hpc.spec.job_dir import DEFAULT_JOB_DIR, default_job_dir

    given = ctx.params.get("job_dir")
    with suppress(VllmHpcError, OSError):
        return str(given) if given else default_job_dir()
    return DEFAULT_JOB_DIR


def _names_under(job_dir: str) -> list[str]:
    """The folders there; whether each is a job's is not looked up: that may be hundreds of questions to a server."""
    with suppress(OSError, ValueError, RuntimeError), os.scandir(Path(job_dir).expanduser()) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return []


def _known() -> list[Any]:
    from vllm_hpc.jobs.known_jobs import known_jobs

    return list(known_jobs())
