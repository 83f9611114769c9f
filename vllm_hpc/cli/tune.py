"""tune: short jobs that find the fastest layout and settings, which plan and submit then use."""

from __future__ import annotations

import signal
from typing import Any, NoReturn

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import count, json_option, request_options
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.tuning.signals import handled

SWEEP_HELP = (
    "What to try, separated by commas: layout, max_num_seqs, max_num_batched_tokens; and what changes answers, which "
    "only --allow keeps: quantization and kv_cache_dtype (fp8), speculation.  [default: the first three]"
)
ROWS_HELP = (
    "Rows of random tokens in each trial, without --input.  [default: 4 x max_num_seqs for each replica; 64 on the CPU]"
)
TOKENS_HELP = "Tokens of each of these rows.  [default: 256]"

SHORT_S = 10


@command("tune")
@request_options
@click.option("--sweep", metavar="NAMES", help=SWEEP_HELP)
@click.option("--rows", type=count, help=ROWS_HELP)
@click.option("--prompt-tokens", type=count, help=TOKENS_HELP)
@json_option
def tune_command(sweep: str | None, rows: int | None, prompt_tokens: int | None, as_json: bool, **options: Any) -> int:
    """Run short jobs to find the fastest layout and settings; plan and submit use them from then on.

    In an allocation, with --scheduler local, the jobs run on its node one after another; otherwise each is queued.
    Each runs the rows of --input, or random tokens (--rows, --prompt-tokens). An interrupt cancels the current job, and
    nothing is saved.
    """
    from vllm_hpc.cli.print_trials import following
    from vllm_hpc.tuning.sweep import DEFAULT_SWEEP
    from vllm_hpc.tuning.tune import tune

    names = tuple(name.strip() for name in sweep.split(",")) if sweep is not None else DEFAULT_SWEEP
    asked = {**options, "sweep": names, "rows": rows, "prompt_tokens": prompt_tokens}
    # As an interrupt: no trial stays behind.
    with handled((signal.SIGTERM, signal.SIGHUP), _leave), following() as told:
        found = tune(tell=told.end, begin=told.begin, look=told.look, **asked)
    if as_json:
        print_json(
            {
                **_plain(found.finding),
                "gain": round(found.finding.gain, 3),
                "file": str(found.file) if found.file else None,
                "rehearsal": found.file is None,
            }
        )
        return 0
    if found.file is None:
        say(f"{found.finding.best}: found in a rehearsal, and not saved")
        return 0
    if min(trial.seconds for trial in found.finding.trials if trial.tokens_per_s) < SHORT_S:
        say(f"Note: trials of under {SHORT_S} s mostly measure their ramp-up: use more --rows", err=True)
    best = found.finding.best
    if best == found.finding.trials[0].setting:
        say(f"{best}: nothing was faster than this, the planner's own choice: {found.file}")
    else:
        say(f"{best}: {found.finding.gain:.2f} times the planner's own choice")
        say(f"plan and submit use it for this model, GPU and number of nodes: {found.file}")
    for one in found.finding.untaken(best.changes):
        say(f"{one.gain:.2f} times as fast with {one.engine}; {one.answers}: plan and submit take it with {one.option}")
    return 0


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _plain(value: object) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
