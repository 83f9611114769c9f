"""``python -m tests.campaign --kills 60 --seed 1 [--only local-tp2,...] [--rehearse] [--table docs/campaign.md]``.

The settings on Slurm need a cluster: ``tests/slurm/cluster.sh up``, and what ``cluster.sh env`` prints exported. What
a setting has come to is kept under --work: a campaign that is cut off goes on with the next one.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import msgspec

from tests.campaign.drive import Drive, Result
from tests.campaign.rows import make_rows, with_answers
from tests.campaign.settings import SETTINGS, draw, split
from tests.campaign.table import machine, table
from tests.real_jobs import make_model


def main() -> int:
    """Run the campaign, print its table, and return 1 where anything was not as it must be."""
    given = _arguments()
    work = given.work.resolve() / ("rehearsed" if given.rehearse else "")
    (work / "results").mkdir(parents=True, exist_ok=True)
    model = None if given.rehearse else _model(work / "tiny")
    expected = with_answers(model, make_rows(given.rows, given.seed), work)
    # Lanes are for mixtures of experts: tests/local/test_lanes.py.
    all_kinds = [name for name, setting in SETTINGS.items() if given.rehearse or "attention_dp" not in setting.options]
    chosen = [SETTINGS[name] for name in (given.only.split(",") if given.only else all_kinds)]
    results = []
    for setting in chosen:
        kept = work / "results" / f"{setting.name}.json"
        if not kept.exists():
            draws = draw(setting, split(given.kills, chosen)[setting.name], given.seed)
            result = Drive(setting, draws, model, expected, work / "jobs", given.limit).run()
            kept.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
        results.append(msgspec.json.decode(kept.read_bytes(), type=Result))
        print(table(results[-1:]), flush=True)
    if given.table:
        _write_page(given.table, results, given)
    print(table(results))
    return int(any(result.problems for result in results))


def _model(folder: Path) -> Path:
    return folder if folder.exists() else make_model(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help=f"of {', '.join(SETTINGS)}; separated by commas")
    parser.add_argument("--rows", type=int, default=1500, help="of each job")
    parser.add_argument("--limit", type=float, default=120, help="seconds in which nothing happens: the job hangs")
    parser.add_argument("--rehearse", action="store_true", help="the jobs are rehearsals, which run no vLLM")
    parser.add_argument("--work", type=Path, default=Path("/tmp/vllm-hpc-campaign"))
    parser.add_argument("--table", type=Path, help="the page whose table is to be written anew")
    return parser.parse_args()


def _write_page(page: Path, results: list[Result], given: argparse.Namespace) -> None:
    """Put command, machine and table below the page's own words, in the place of the last ones."""
    mark = "<!-- written by python -m tests.campaign -->"
    words = page.read_text(encoding="utf-8").partition(mark)[0] if page.exists() else "# The kill campaign\n\n"
    command = f"python -m tests.campaign {shlex.join(sys.argv[1:])}"
    took = sum(result.seconds for result in results) / 60
    page.write_text(
        f"{words}{mark}\n\n    {command}\n\n{time.strftime('%Y-%m-%d')}, {machine()}; "
        f"{took:.0f} minutes; {given.rows} rows a job but for near ties.\n\n{table(results)}",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
