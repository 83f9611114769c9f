"""bundle: a folder with vllm_hpc for the image of a container."""

from __future__ import annotations

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import json_option
from vllm_hpc.cli.output import print_json, say


@command("bundle")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--python", metavar="3.X", required=True, help="The minor version of the image's Python, such as 3.12.")
@json_option
def bundle_command(folder: str | None, python: str, as_json: bool) -> int:
    """Make a folder with vllm_hpc and what it needs, for an image without them (docs/containers.md)."""
    from vllm_hpc.schedulers.containers.bundle import make_bundle
    from vllm_hpc.spec.container import check_bundle_path
    from vllm_hpc.spec.toml_text import toml_value
    from vllm_hpc.spec.values import as_path

    path = as_path(folder or f"vllm-hpc-bundle-{python}", "DIR").absolute()
    check_bundle_path(str(path), "DIR")
    bundle = make_bundle(path, python)
    if as_json:
        print_json({"folder": str(path), "python": bundle.python, "versions": bundle.versions})
    else:
        packages = ", ".join(f"{name} {text}" for name, text in bundle.versions.items())
        say(f"Made {path} for Python {python}, with {packages}.")
        in_profile = toml_value(str(path).replace("$", "$$"))
        say(f"Name it in the profile: container = {{ bundle = {in_profile}, ... }}")
    return 0
