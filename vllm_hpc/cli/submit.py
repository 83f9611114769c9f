"""submit: plan, render and submit; with --wait also collect and show answers."""

from __future__ import annotations

from typing import Any

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import json_option, request_options
from vllm_hpc.cli.output import json_of, print_json, print_script, say


@command("submit")
@request_options
@click.option("--wait", is_flag=True, help="Wait for the end, collect, and show some answers.")
@click.option("--dry-run", is_flag=True, help="Print the script and submit nothing, as render does.")
@json_option
def submit_command(wait: bool, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Plan, render and submit a job. MODEL may also be a folder with a job.toml."""
    from vllm_hpc.jobs.doubt import left_to_user
    from vllm_hpc.jobs.submit import prepare, runs_samples

    prepared = prepare(**options)
    if dry_run:
        print_script(prepared, as_json)
        return 0
    job = prepared.submit()
    samples = "without --input, two sample prompts are run" if runs_samples(prepared) else None
    for note in filter(None, (prepared.job.source, samples, *prepared.notes)):
        say(f"Note: {note}", err=True)
    submitted = {"job": str(job.path), "job_id": job.job_id, **json_of(prepared)}
    by_hand = left_to_user(job.folder)
    if by_hand:
        say(f"Note: {by_hand}", err=True)
        say(f"Made {job.path.name} for {prepared.scheduler}: {job.path}", err=wait or as_json)
    elif not as_json:
        say(f"Submitted {job.path.name} to {prepared.scheduler} as {job.job_id}: {job.path}", err=wait)
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
