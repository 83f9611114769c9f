"""report: one HTML page of a job, or of two."""

from __future__ import annotations

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_argument, json_option
from vllm_hpc.cli.output import print_json, say

OUTPUT_HELP = "Write it to this file instead of report.html in the job's folder, as another user's job needs."
COMPARE_HELP = "Show this job beside it: settings that differ, speeds, lengths, equal rows."


@command("report")
@job_argument
@click.option("-o", "--output", metavar="FILE", help=OUTPUT_HELP)
@click.option("--compare", metavar="JOB2", help=COMPARE_HELP)
@json_option
def report_command(job: str, job_dir: str, output: str | None, compare: str | None, as_json: bool) -> int:
    """Write one HTML page of a job: layout, timeline, speed over time, lengths, errors, energy, script, versions.

    Of any job, also one that runs or has failed. The page is one file, which loads nothing. --json prints what is on
    it instead, and writes nothing.
    """
    from vllm_hpc.jobs.find import find_job
    from vllm_hpc.report.write import facts_of, write_report

    folder = find_job(job, job_dir).folder
    other = find_job(compare, job_dir).folder if compare is not None else None
    if as_json:
        print_json(facts_of(folder, other))
        return 0
    path, _ = write_report(folder, output, other)
    say(str(path))
    return 0
