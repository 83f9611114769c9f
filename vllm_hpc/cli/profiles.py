"""profiles init, list, show and check: for admins, who write the profiles of a site."""

from __future__ import annotations

import time
from pathlib import Path

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import Registered, json_option
from vllm_hpc.cli.output import print_json, print_raw, say
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.registry import SCHEDULERS
from vllm_hpc.spec.words import counted

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
    return 0


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


profiles_command.add_command(init_command)
