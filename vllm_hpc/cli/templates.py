"""templates: list, show, write and check a site's templates."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import PROFILE_HELP, SCHEDULER_HELP, Registered, json_option
from vllm_hpc.cli.output import print_json, print_raw, say
from vllm_hpc.cli.print_findings import print_findings
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.registry import SCHEDULERS
from vllm_hpc.spec.words import counted

if TYPE_CHECKING:
    from vllm_hpc.schedulers.check_templates import Checked
    from vllm_hpc.schedulers.template_findings import TemplateFinding
    from vllm_hpc.spec.profile import Profile

_profile = click.option("--profile", metavar="NAME", help=PROFILE_HELP)
_template_dir = click.option(
    "--template-dir", metavar="DIR", help="A folder searched for templates before the profile's and the packaged ones."
)
_scheduler = click.option("--scheduler", type=Registered(SCHEDULERS), help=SCHEDULER_HELP)


class _Site(NamedTuple):
    """The profile that was named, and the template folders, highest first."""

    profile: Profile | None
    folders: tuple[str, ...]


@click.group("templates", invoke_without_command=False)
def templates_command() -> None:
    """The templates that scripts come from: list, show, write and check them."""


@command("list")
@_template_dir
@_profile
@json_option
def list_command(template_dir: str | None, profile: str | None, as_json: bool) -> int:
    """List templates: for which scheduler, and the files that each is made of; then files that nothing uses."""
    from vllm_hpc.schedulers.find_templates import find_templates
    from vllm_hpc.schedulers.template_folders import unused_files

    folders = _site(template_dir, profile).folders
    found, unused = find_templates(folders), unused_files(folders)
    if as_json:
        rows = [{"name": one.name, "scheduler": one.scheduler, "files": one.files, "fault": one.fault} for one in found]
        print_json({"folders": folders, "templates": rows, "unused": unused})
        return 0
    for one in found:
        kind = one.scheduler or ("macros" if one.name.startswith("_") else "-")
        say(f"{one.name:24} {kind:8} {' > '.join(one.files) or one.fault}")
    for said in unused:
        say(f"Note: {said}", err=True)
    return 0


@command("show")
@click.argument("name")
@click.option("--source", is_flag=True, help="Print the Jinja source, file by file, instead of a sample job's script.")
@click.option("--nodes", type=click.IntRange(1, 2), default=2, show_default=True, help="Nodes of the sample job.")
@_template_dir
@_profile
@json_option
def show_command(name: str, source: bool, nodes: int, as_json: bool, **where: str | None) -> int:
    """Print the script that NAME makes for a sample job, or what NAME is made of."""
    site = _site(**where)
    if source:
        from vllm_hpc.schedulers.find_templates import template_files

        found = template_files(name, site.folders)
        if as_json:
            print_json({"name": name, "files": [{"file": file, "source": text} for file, text in found]})
        else:
            print_raw("\n".join(f"{{# {file} #}}\n{text}" for file, text in found))
        return 0
    script = _sample(name, site, nodes)
    if as_json:
        print_json({"name": name, "script": script})
    else:
        print_raw(script)
    return 0


@command("init")
@click.argument("folder", metavar="DIR")
@click.argument("name", required=False)
@_scheduler
@json_option
def init_command(folder: str, name: str | None, scheduler: str | None, as_json: bool) -> int:
    """Write a small template into DIR that extends the one of its name, with each block as a comment.

    NAME is the template of the scheduler, unless given. Any other name is for --template. No file is overwritten.
    """
    from vllm_hpc.schedulers.init_template import init_template
    from vllm_hpc.schedulers.scheduler import find_scheduler, get_scheduler
    from vllm_hpc.schedulers.template_folders import known_names

    of_name = known_names().get(name or "")
    if scheduler in (None, "auto"):
        found = of_name or find_scheduler()[0]
        scheduler = found if of_name or not get_scheduler(found).runs_here else "slurm"
    if of_name not in (None, scheduler):
        raise RequestError(f"NAME {name!r} is the template of {of_name}, not of {scheduler}: leave one of them out")
    path = init_template(folder, name or get_scheduler(str(scheduler)).template, str(scheduler))
    if as_json:
        print_json({"file": str(path), "scheduler": scheduler})
    else:
        check = f"vllm-hpc templates check {shlex.quote(folder)}"
        say(f"Wrote {path}: now take a block out of its comment, then {check}")
    return 0


@command("check")
@click.argument("folder", metavar="[DIR]", required=False)
@_profile
@json_option
def check_command(folder: str | None, profile: str | None, as_json: bool) -> int:
    """Render the templates of DIR, or of the profile, for all kinds of jobs, and say what is wrong with them.

    With --profile, for jobs with its values. Exit code 1 if a job would fail, or lose what it needs.
    """
    from vllm_hpc.schedulers.check_templates import check_templates

    site = _site(folder, profile)
    checked = check_templates(site.folders, site.profile)
    if as_json:
        print_json(checked.to_json())
    else:
        _print(checked)
    return 0 if checked.is_good else 1


for one in (list_command, show_command, init_command, check_command):
    templates_command.add_command(one)


def _site(template_dir: str | None, profile: str | None) -> _Site:
    """The profile of the option, or VLLM_HPC_PROFILE, and the folders. Raises ProfileError, RequestError."""
    from vllm_hpc.planner.resolve import find_site
    from vllm_hpc.schedulers.template_folders import distinct_folders
    from vllm_hpc.spec.job_definition import profile_in_use
    from vllm_hpc.spec.values import as_path, check_path

    if template_dir is not None:
        check_path(template_dir, "DIR")
        as_path(template_dir, "DIR")
    name = profile_in_use(profile)
    found = find_site(name)
    folders = [*([template_dir] if template_dir else []), *found.template_dirs]
    return _Site(found.profile if name else None, distinct_folders(folders))


def _sample(name: str, site: _Site, nodes: int) -> str:
    """The script of a sample job. Raises RequestError for shared macros, and TemplateError."""
    from vllm_hpc.schedulers.check_templates import render_sample
    from vllm_hpc.schedulers.find_templates import find_templates
    from vllm_hpc.schedulers.template_matrix import sample_case

    base = name.removeprefix("packaged/")
    found = next((one for one in find_templates(site.folders) if one.name == base), None)
    if found is None:
        raise RequestError(f"no such template: {name!r}: 'vllm-hpc templates list' has all")
    if found.scheduler is None:
        raise RequestError(f"{name!r} has shared macros, which make no script: use --source")
    return render_sample(name, sample_case(found.scheduler, site.profile, nodes), site.folders)


def _print(checked: Checked) -> None:
    print_findings(msgspec.structs.replace(one, found=_words(one)) for one in checked.findings)
    read = [name for name, is_here in checked.tools.items() if is_here]
    skipped = [name for name, is_here in checked.tools.items() if not is_here]
    what = f"{counted(checked.scripts, 'script')} of {', '.join(checked.templates) or 'no template'}"
    note = f" (not here: {', '.join(skipped)})" if skipped else ""
    say(f"{'ok' if checked.is_good else 'failed'}: {what}, read by {', '.join(read) or 'nothing'}{note}")


def _words(one: TemplateFinding) -> str:
    return one.found + (
        f" [{one.case}{f', and {one.scripts - 1} more' if one.scripts > 1 else ''}]" if one.case else ""
    )
