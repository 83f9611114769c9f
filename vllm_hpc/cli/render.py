"""render: the script that submit would send."""

from __future__ import annotations

from typing import Any

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import json_option, request_options
from vllm_hpc.cli.output import print_script


@command("render")
@request_options
@json_option
def render_command(as_json: bool, **options: Any) -> int:
    """Print the script; with --name, byte for byte what submit sends."""
    from vllm_hpc.jobs.submit import prepare

    print_script(prepare(**options), as_json)
    return 0
