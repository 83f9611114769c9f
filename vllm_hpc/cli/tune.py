"""tune: short jobs that find the fastest layout and settings, which plan and submit then take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vllm_hpc.cli.options import count, json_option, request_options
from vllm_hpc.cli.output import print_json

if TYPE_CHECKING:
    from vllm_hpc.tuned import Trial

SWEEP_HELP = (
    "What to try, separated by commas: layout, max_num_seqs, max_num_batched_tokens, and kv_cache_dtype (fp8, which "
    "changes the answers).  [default: the first three]"
)
ROWS_HELP = "Rows of each trial, where there is no --input.  [default: 4 x max_num_seqs for each replica]"

SHORT_S = 10


@click.command("tune")
@request_options
@click.option("--sweep", metavar="NAMES", help=SWEEP_HELP)
@click.option("--rows", type=count, help=ROWS_HELP)
@click.option("--prompt-tokens", type=count, default=256, show_default=True, help="Tokens of each of these rows.")
@json_option
def tune_command(sweep: str | None, rows: int | None, prompt_tokens: int, as_json: bool, **options: Any) -> int:
    """Run short jobs to find the fastest layout and settings; plan and submit take them from then on.

    In an allocation, with --scheduler local, they run on its node, one after another; else each is queued.
    """
    from vllm_hpc.sweep import DEFAULT_SWEEP
    from vllm_hpc.tuning import tune

    names = tuple(name.strip() for name in sweep.split(",")) if sweep is not None else DEFAULT_SWEEP
    found = tune(sweep=names, rows=rows, prompt_tokens=prompt_tokens, tell=_tell, **options)
    if as_json:
        print_json({**_plain(found.finding), "gain": round(found.finding.gain, 3), "file": str(found.file)})
        return 0
    if min(trial.seconds for trial in found.finding.trials if trial.tokens_per_s) < SHORT_S:
        click.echo(f"Note: trials of under {SHORT_S} s measure much of their ramp-up: use more --rows", err=True)
    click.echo(f"{found.finding.best}: {found.finding.gain:.2f} times the planner's own choice")
    click.echo(f"plan and submit take it for this model, GPU and number of nodes: {found.file}")
    return 0


def _tell(trial: Trial) -> None:
    rate = f"failed: {trial.why}" if trial.tokens_per_s is None else f"{trial.tokens_per_s:,.0f} output tokens/s"
    aside = "" if trial.counts else " (the first run, which compiles: it does not count)"
    click.echo(f"{trial.setting}: {rate}{aside}", err=True)


def _plain(value: object) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
