"""profiles init, list, show and check: for admins, who write the profiles of a site."""

from __future__ import annotations

import time
from pathlib import Path

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import Registered, json_option
from vllm_hpc.cli.output import print_json, print_raw, say
from vllm_hpc.cli.print_findings import print_findings
from vllm_hpc.spec.errors import ProfileError, RequestError
from vllm_hpc.spec.finding import Finding, failed
from vllm_hpc.spec.registry import SCHEDULERS
from vllm_hpc.spec.words import counted

# Names in a list are lined up to this width.
_WIDEST = 30


@click.group("profiles")
def profiles_command() -> None:
    """Write, show and check the profiles of a site (docs/admin.md)."""


@command("init")
@click.argument("name", required=False)
@click.option("--scheduler", type=Registered(SCHEDULERS), help="Which to ask, if not the one that is found here.")
@click.option("--user", is_flag=True, help="Write it into your own file, ~/.config/vllm-hpc/config.toml.")
@click.option("--project", is_flag=True, help="Write it into ./vllm-hpc.toml.")
@click.option("--output", metavar="FILE", help="Write it into FILE, such as /etc/xdg/vllm-hpc/config.toml.")
@json_option
def init_command(
    name: str | None, scheduler: str | None, user: bool, project: bool, output: str | None, as_json: bool
) -> int:
    """Ask the cluster what it has, and write a profile called NAME, by default as the cluster.

    It has a table for each partition or queue, with its limits and GPUs, and comments that say where values are from.
    Without --user, --project or --output it is printed. A profile that is there is never overwritten.
    """
    from vllm_hpc.schedulers.ask_cluster import ask_cluster
    from vllm_hpc.schedulers.profile_text import profile_text
    from vllm_hpc.spec.toml_file import parse_toml
    from vllm_hpc.spec.toml_text import add_profile, check_profile_name, usable_name

    path = _target(user, project, output)
    if name is not None:
        check_profile_name(name)
    inventory = ask_cluster(scheduler)
    name = name or usable_name(inventory.name)
    text = profile_text(name, inventory, time.strftime("%Y-%m-%d"))
    is_new = path is not None and add_profile(path, name, text)
    if as_json:
        profile = parse_toml(text.encode(), Path("the profile"))["profiles"][name]
        print_json({"name": name, "file": path and str(path), "profile": profile, **inventory.to_json()})
    elif path is None:
        print_raw(text)
    else:
        wrote = f"{'Wrote' if is_new else 'Added to'} {path}: profile {name}, {counted(len(inventory.queues), 'queue')}"
        say(f"{wrote}. Next: vllm-hpc profiles check {name}")
        if others := _other_files(name, path):
            say(f"Note: {name} is in {', '.join(others)}, too: its files are merged (profiles show)", err=True)
    return 0


def _other_files(name: str, path: Path) -> list[str]:
    """Other files that have that profile; none where one cannot be read, which profiles check says."""
    from vllm_hpc.spec.profile_files import all_names

    try:
        found = all_names().get(name, [])
    except ProfileError:
        return []
    return [str(one) for one in found if one.absolute() != path.absolute()]


def _target(user: bool, project: bool, output: str | None) -> Path | None:
    """The file to write to; None for stdout. Raises RequestError."""
    from vllm_hpc.spec.config_files import PROJECT_FILE, user_file

    if user + project + (output is not None) > 1:
        raise RequestError("--user, --project and --output name different files: give one of them")
    if output is not None:
        if not output or output.endswith("/") or Path(output).is_dir():
            raise RequestError(f"--output must be a file, such as vllm-hpc.toml, not {output!r}")
        return Path(output)
    return user_file() if user else Path(PROJECT_FILE) if project else None


@command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List the profiles: those of ./vllm-hpc.toml, of your own file and the site's, then the gallery's."""
    from vllm_hpc.spec.list_profiles import list_profiles

    found = list_profiles()
    if as_json:
        print_json([one.to_json() for one in found])
        return 0
    width = min(max((len(one.name) for one in found), default=0), _WIDEST)
    for one in found:
        says = f"broken: {one.fault}" if one.fault else one.description or "(no description)"
        say(f"{one.name:{width}}  {says}  [{' over '.join(one.files)}]")
    return 0


@command("show")
@click.argument("name")
@click.option("--origin", is_flag=True, help="Say beside each value which file and line it is from.")
@json_option
def show_command(name: str, origin: bool, as_json: bool) -> int:
    """Print a profile as its files say together: as TOML, which gives the same profile by itself."""
    from vllm_hpc.spec.profile_layers import find_profile
    from vllm_hpc.spec.show_profile import profile_json, show_profile

    found = find_profile(name)
    if as_json:
        print_json(profile_json(name, found))
    else:
        print_raw(show_profile(name, found, origin))
    return 0


@command("check")
@click.argument("name", required=False)
@json_option
def check_command(name: str | None, as_json: bool) -> int:
    """Check a profile, or all that are not of the gallery: files, values, queues, the cluster, a script in each queue.

    Exit codes: 0 nothing failed, 1 a check failed.
    """
    from vllm_hpc.jobs.check_profile import Clusters, check_profile
    from vllm_hpc.spec.list_profiles import own_names
    from vllm_hpc.spec.profile_files import all_names
    from vllm_hpc.spec.profile_layers import find_profile

    if name is not None and name not in all_names():
        find_profile(name)  # says which there are
    names = [name] if name is not None else own_names()
    clusters = Clusters()
    findings: list[Finding] = []
    for one in names:
        found = check_profile(one, clusters)
        findings += found
        if not as_json:
            print_findings(found)
    if as_json:
        print_json([one.to_json() for one in findings])
    return 1 if failed(findings) else 0


for one in (list_command, show_command, init_command, check_command):
    profiles_command.add_command(one)
