"""plan: the layout and its reasons; submits nothing."""

from __future__ import annotations

from typing import Any

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import json_option, request_options
from vllm_hpc.cli.output import print_json


@command("plan")
@request_options
@json_option
def plan_command(as_json: bool, **options: Any) -> int:
    """Compute the layout and say why. Submits nothing, writes nothing."""
    from vllm_hpc.planner.queues import plan_only

    plan = plan_only(**options)
    if as_json:
        print_json(plan.to_json())
    else:
        from vllm_hpc.cli.print_plan import print_plan

        print_plan(plan)
    return 1 if plan.fits is False else 0
