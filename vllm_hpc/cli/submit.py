"""submit, plan, render: from options to a Request and one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vllm_hpc.cli.options import json_option, request_options
from vllm_hpc.cli.output import print_bytes, print_json

if TYPE_CHECKING:
    from vllm_hpc.jobs.submit import Prepared


@click.command("submit")
@request_options
@click.option("--wait", is_flag=True, help="Wait for the end, collect, and show some answers.")
@click.option("--dry-run", is_flag=True, help="Print the script and submit nothing (render).")
@json_option
def submit_command(wait: bool, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Plan, render and submit a job. MODEL may also be a folder with a job.toml."""
    from vllm_hpc.jobs.submit import prepare

    prepared = prepare(**options)
    if dry_run:
        _print_script(prepared, as_json)
        return 0
    job = prepared.submit()
    for note in prepared.notes:
        click.echo(f"Note: {note}", err=True)
    submitted = {"job": str(job.path), "job_id": job.job_id, **_json(prepared)}
    if not as_json:
        click.echo(f"Submitted {job.path.name} to {prepared.scheduler} as {job.job_id}: {job.path}", err=wait)
    if wait:
        from vllm_hpc.cli import print_status

        if not as_json:
            return print_status.wait_and_show(job)
        submitted |= print_status.wait_quietly(job)
    if as_json:
        print_json(submitted)
    if wait:
        return print_status.exit_code(job)
    return 0


@click.command("plan")
@request_options
@json_option
def plan_command(as_json: bool, **options: Any) -> int:
    """Compute the layout and say why. Submits nothing, writes nothing."""
    from vllm_hpc.planner.make_plan import plan_only

    plan = plan_only(**options)
    if as_json:
        print_json(plan.to_json())
    else:
        from vllm_hpc.cli.print_plan import print_plan

        print_plan(plan)
    return 1 if plan.fits is False else 0


@click.command("render")
@request_options
@json_option
def render_command(as_json: bool, **options: Any) -> int:
    """Print the script; with --name, byte for byte what submit sends."""
    from vllm_hpc.jobs.submit import prepare

    _print_script(prepare(**options), as_json)
    return 0


def _print_script(prepared: Prepared, as_json: bool) -> None:
    if as_json:
        print_json({"job": prepared.folder, "job_id": None, **_json(prepared)})
    else:
        print_bytes(prepared.script.encode())


def _json(prepared: Prepared) -> dict[str, Any]:
    mark = {"rehearsal": True} if prepared.request.rehearse else {}
    return {"scheduler": prepared.scheduler, "script": prepared.script, "plan": prepared.plan.to_json(), **mark}
