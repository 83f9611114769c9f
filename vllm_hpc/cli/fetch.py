"""fetch: puts a model into the cache that ranks read, on the login node."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING

import click
import msgspec

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import PROFILE_HELP, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.words import in_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_hpc.planner.models.fetch import Fetched, Listing

# Seconds between two lines of progress that nobody sees as they come, and on a terminal.
_LINE_S, _TERMINAL_S = 30.0, 1.0
REVISION_HELP = "A branch, tag or commit of the model.  [default: main]"
CACHE_HELP = "A shared cache instead of the profile's cache_dir: the model goes into DIR/huggingface/hub."


@command("fetch")
@click.argument("model")
@click.option("--revision", metavar="NAME", help=REVISION_HELP)
@click.option("--profile", metavar="NAME", help=PROFILE_HELP)
@click.option("--cache-dir", metavar="DIR", help=CACHE_HELP)
@json_option
def fetch_command(model: str, revision: str | None, profile: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Put a model of the Hub into the shared cache: the files that vLLM reads. Run it where there is internet access.

    Called again, it goes on where it ended. A gated model needs its licence accepted on the Hub, and HF_TOKEN.
    """
    from vllm_hpc.planner.models.cache_of_profile import cache_to_fill
    from vllm_hpc.planner.models.fetch import fetch, list_files

    cache = cache_to_fill(model, profile, cache_dir)
    _keep_quiet()
    listing = list_files(model, revision)
    say(
        f"{listing.model} {listing.commit[:12]}: {len(listing.files)} files, {in_bytes(listing.size)}, to {cache}",
        err=True,
    )
    fetched = fetch(listing, cache, _Progress().tell)
    if as_json:
        print_json(msgspec.to_builtins(fetched))
    else:
        _say_end(fetched, listing, _options(profile, revision, cache_dir, cache))


def _keep_quiet() -> None:
    """huggingface_hub's own bars and warnings would come between our lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def _options(profile: str | None, revision: str | None, cache_dir: str | None, cache: Path) -> list[str]:
    """The options with which a job finds the model."""
    place = {"--env": f"HF_HUB_CACHE={cache}"} if cache_dir else {}
    engine = {"--engine": f"revision={revision}"} if revision else {}
    given = {"--profile": profile, **place, **engine}
    return [f"{option} {shlex.quote(value)}" for option, value in given.items() if value]


def _say_end(fetched: Fetched, listing: Listing, options: list[str]) -> None:
    what = "was there already" if not fetched.fetched else f"{in_bytes(fetched.fetched)} fetched"
    say(f"{fetched.model}: {what}: {fetched.folder}")
    if listing.is_adapter:
        name = listing.model.split("/")[1]
        say(f"an adapter: vllm-hpc submit BASE_MODEL --lora {shlex.quote(f'{name}={fetched.folder}')}")
    else:
        say(" ".join(["vllm-hpc submit", fetched.model, *options, "--input prompts.jsonl"]))


class _Progress:
    """How far it is: on a terminal one line that changes, else a line every half a minute."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._began = self._told = time.monotonic()
        self._first: int | None = None

    def tell(self, done: int, total: int) -> None:
        """Called with the bytes that are there, and those of all files."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now - self._told < (_TERMINAL_S if self._is_terminal else _LINE_S) and done < total:
            return
        if done >= total and self._told == self._began:
            return  # nothing to fetch, or no more than a moment's
        self._told = now
        rate = (done - self._first) / max(now - self._began, 0.1)
        left = f", {(total - done) / rate / 60:.0f} min left" if rate > 0 and done < total else ""
        words = f"{in_bytes(done)} of {in_bytes(total)}, {rate / 2**20:.0f} MiB/s{left}"
        if self._is_terminal:
            click.echo(f"\r{words:<60}", nl=done >= total, err=True)
        else:
            say(words, err=True)
