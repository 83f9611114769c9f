"""diff: the outputs of two jobs, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.complete import complete_job
from vllm_hpc.cli.job_options import job_dir_option, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.words import counted

if TYPE_CHECKING:
    from vllm_hpc.jobs.diff import OutputDiff, RowDifference

FIELDS_HELP = "Compare these fields of the rows, instead of the answers: text,finish_reason."
TOKENS_HELP = "Say the first token that differs by the tokenizer.json of this model folder."


@command("diff")
@click.argument("job1", shell_complete=complete_job)
@click.argument("job2", shell_complete=complete_job)
@job_dir_option
@click.option(
    "--show", type=click.IntRange(min=0, max=100_000), default=3, metavar="N", help="Rows to show.  [default: 3]"
)
@click.option("--fields", metavar="NAMES", help=FIELDS_HELP)
@click.option("--tokens", metavar="MODEL", help=TOKENS_HELP)
@json_option
def diff_command(
    job1: str, job2: str, job_dir: str, show: int, fields: str | None, tokens: str | None, as_json: bool
) -> int:
    """Compare the outputs of two jobs row by row, joined by id. A JOB may also be a file, an outputs.jsonl.

    Exit code 0 if they are equal, 1 if not, as of diff(1); 2 if they cannot be compared.
    """
    from vllm_hpc.jobs.diff import diff_outputs, find_side

    named = [name.strip() for name in fields.split(",")] if fields is not None else []
    if "" in named:
        raise RequestError(f"--fields {fields!r} must be names with commas between them, such as text,finish_reason")
    found = diff_outputs(find_side(job1, job_dir), find_side(job2, job_dir), named, show, tokens)
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 0 if found.is_equal else 1


def _print(found: OutputDiff) -> None:
    share = "" if found.share is None else f" ({100 * found.share:.4g} %)"
    say(f"{found.equal} of {counted(found.compared, 'row')} equal{share}")
    for text in _counts(found):
        say(f"  {text}")
    for name, (one, other) in found.settings.items():
        say(f"  the jobs differ in {name}: {one} | {other}")
    for example in found.examples:
        _show(example)


def _counts(found: OutputDiff) -> Iterator[str]:
    """What there is to say beyond equal rows, a line each."""
    if found.fields:
        yield "first difference: " + ", ".join(
            f"{counted(rows, 'row')} in {name}" for name, rows in found.fields.items()
        )
    if found.common is not None:
        yield f"of different texts, {100 * found.common:.3g} % is before the first difference"
    numbers = (
        (found.only_first, f"only in {found.first}"),
        (found.only_second, f"only in {found.second}"),
        (found.errors_first, f"with an error or no result in {found.first}"),
        (found.errors_second, f"with an error or no result in {found.second}"),
        (found.errors_both, "with an error or no result in both"),
        (found.inputs_differ, "with another prompt or sampling: the inputs differ"),
        (found.prompt_tokens_differ, "with another number of prompt tokens"),
    )
    yield from (f"{counted(rows, 'row')} {what}" for rows, what in numbers if rows)


def _show(example: RowDifference) -> None:
    where = example.where
    place = "" if where.character is None else f" at character {where.character}, word {where.word}"
    token = "" if where.token is None else f", token {where.token}"
    say(f"row {example.id}: {where.field} differs{place}{token}")
    say(f"  < {where.first}\n  > {where.second}")
