"""show: prompts and answers of a job to look at, also while it runs."""

from __future__ import annotations

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_argument, json_option
from vllm_hpc.cli.output import print_bytes, say
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.words import counted

_MOST_ROWS = 100_000
HEAD_HELP = "The first N finished rows, in the input's order.  [default: 5]"
TAIL_HELP = "The last N finished rows."
ID_HELP = "The row with this id (of an OpenAI batch: custom_id), its texts whole."
_number = click.IntRange(min=0, max=_MOST_ROWS)


@command("show")
@job_argument
@click.option("--head", type=_number, metavar="N", help=HEAD_HELP)
@click.option("--tail", type=_number, metavar="N", help=TAIL_HELP)
@click.option("--id", "identity", metavar="ID", help=ID_HELP)
@json_option
def show_command(
    job: str, job_dir: str, head: int | None, tail: int | None, identity: str | None, as_json: bool
) -> int:
    """Show prompts and answers of a job: of the rows that it has finished so far.

    --json prints a line for each row: index, id, input (the row in) and output (the row out, null if it has not run).
    """
    from vllm_hpc.jobs.find import find_job
    from vllm_hpc.jobs.rows_so_far import RowsSoFar, find_row

    if identity is not None and (head is not None or tail is not None):
        raise RequestError("--id shows one row: leave out --head and --tail")
    rows = RowsSoFar(find_job(job, job_dir).folder)
    if identity is not None:
        chosen = [find_row(rows.folder, identity, rows.total)]
    else:
        chosen = rows.first(5 if head is None and tail is None else head or 0)
        chosen += [index for index in rows.last(tail or 0) if index not in {*chosen}]
    _print(rows, chosen, identity is not None, as_json)
    if not as_json and identity is None:
        say(f"{len(chosen)} of {counted(rows.finished, 'finished row')}, of {rows.total} in all", err=True)
    return 0


def _print(rows: object, chosen: list[int], whole: bool, as_json: bool) -> None:
    import msgspec

    from vllm_hpc.cli.print_rows import print_row
    from vllm_hpc.cli.visible import visible_json
    from vllm_hpc.jobs.rows_so_far import Prompts, RowsSoFar

    assert isinstance(rows, RowsSoFar)
    prompts = Prompts(rows.folder)
    outputs = rows.outputs([index for index in chosen if rows.has(index)])
    for index in chosen:
        row = next(outputs) if rows.has(index) else None
        given = prompts.row(index)
        if as_json:
            identity = (row or given or {}).get("custom_id", (given or row or {}).get("id"))
            line = msgspec.json.encode({"index": index, "id": identity, "input": given, "output": row})
            print_bytes(visible_json(line) + b"\n")
        else:
            print_row(index, given, row, whole)
    if prompts.fault:
        say(f"Note: the prompts cannot be shown: {prompts.fault}", err=True)
