"""The command line: each command turns options into a Request or a Job, makes one library call, and prints.

Only click is imported before a command runs, so that ``vllm-hpc --help`` is fast.
"""

from __future__ import annotations

import io
import re
import sys
from contextlib import nullcontext, redirect_stderr
from importlib import import_module
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from vllm_hpc.cli.output import print_json, say
from vllm_hpc.cli.visible import VisibleStream
from vllm_hpc.jobs.border import in_the_shells_words
from vllm_hpc.spec.errors import StillRunning, VllmHpcError
from vllm_hpc.spec.secret_shapes import redact

# Longer than paths are, and how much of it is shown: an error quotes what was given.
_LONG_WORD, _SHOWN = re.compile(r"\S{1000,}"), 80
# command -> module of this package, and its line in `vllm-hpc --help`
COMMANDS = {
    "submit": ("submit", "Plan, render and submit a job."),
    "plan": ("plan", "Compute the layout and say why."),
    "render": ("render", "Print the script that submit sends."),
    "fetch": ("fetch", "Put a model of the Hub into the shared cache."),
    "tune": ("tune", "Find the fastest layout and settings with short jobs."),
    "doctor": ("doctor", "Check this machine, or a real allocation."),
    "status": ("jobs", "Show state, rows and speed of a job, or of all."),
    "watch": ("watch", "Show a job live until it ends."),
    "wait": ("watch", "Wait until jobs have ended."),
    "list": ("list_jobs", "List the jobs under --job-dir, newest first."),
    "logs": ("jobs", "Print the scheduler's log, or one rank's."),
    "debug": ("debug", "Ask every rank where it is, and say who waits for whom."),
    "env": ("env", "Show what each rank of a job saw."),
    "report": ("report", "Write one HTML page of a job, or of two."),
    "diff": ("diff", "Compare the outputs of two jobs row by row."),
    "collect": ("jobs", "Merge finished rows into outputs.jsonl."),
    "resume": ("jobs", "Submit a job again for the rows that are missing."),
    "show": ("show", "Show prompts and answers of a job."),
    "errors": ("errors", "Group the errors of a job's rows."),
    "cancel": ("cancel", "Cancel jobs in their scheduler."),
    "clean": ("clean", "Remove what jobs that have ended need no more."),
    "profiles": ("profiles", "Write, show and check the profiles of a site."),
    "templates": ("templates", "List, show, write and check a site's templates."),
    "gpus": ("gpus", "List the GPUs that --gpu knows."),
    "completion": ("completion", "Print what has a shell complete names with Tab."),
    "bundle": ("bundle", "Make a folder with vllm-hpc for the image of a container."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of a job's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"vllm_hpc.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands from the table, and the options of the group."""
        found = [CompletionItem(name, help=says) for name, (_, says) in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table: importing each for its line of help would take too long."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, says) in COMMANDS.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from vllm_hpc import __version__

        click.echo(f"vllm-hpc {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
def cli() -> None:
    """Distributed vLLM batch inference on HPC clusters: a job is a folder.

    \b
    vllm-hpc submit demo --wait                                    try it here
    vllm-hpc submit --nodes 2 --tp 16 MODEL --input prompts.jsonl  run it there

    MODEL is a local folder, a Hub id, or 'demo'. JOB is a folder, a name under --job-dir, a scheduler's id, or the
    beginning of a name that no other job has.

    Exit codes: 0 done; 1 failed; 2 refused before anything was made; 3 finished, but some rows have errors or are
    missing; 130 interrupted while waiting (the job continues).
    """


def main() -> None:
    """Entry point: prints one line for every error that a user can cause; exits with the codes of ``cli``."""
    _prepare_output()
    with redirect_stderr(VisibleStream(sys.stderr)) if sys.stderr else nullcontext():
        _run()


def _run() -> None:
    try:
        with in_the_shells_words():
            code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error))
        sys.exit(2)
    except click.ClickException as error:
        _fail(_in_one_line(error), error.exit_code, error)
    except StillRunning as error:
        _fail(str(error), error.exit_code, error, "Interrupted")
    except VllmHpcError as error:
        _fail(str(error), error.exit_code, error)
    except (KeyboardInterrupt, click.Abort) as error:
        _fail("interrupted", 130, error)
    except MemoryError as error:
        _fail("there is not enough memory here: use another machine, such as a compute node", 1, error)
    except BrokenPipeError:
        # The reader of the output (head, less) has exited, so nothing can be reported.
        sys.stdout = None
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename!r}" if error.filename else "the output"
        sys.stdout = None  # otherwise Python would try to flush the rest again at exit
        _fail(f"{where}: {error.strerror}", 1, error)
    sys.exit(code if isinstance(code, int) else 0)


def _prepare_output() -> None:
    """Print a replacement for characters that the terminal cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _fail(message: str, code: int, error: BaseException, word: str = "Error") -> NoReturn:
    """Print an error in one line on stderr, where --json was asked for also as an object on stdout, and exit."""
    line = _LONG_WORD.sub(_shortened, redact(" ".join(message.split())))
    if "--json" in sys.argv[1:] and sys.stdout:
        text = line.encode(errors="replace").decode()
        try:
            print_json({"error": {"type": type(error).__name__, "message": text, "exit_code": code}})
        except OSError:  # nobody reads it
            sys.stdout = None
    say(f"{word}: {line}", err=True)
    sys.exit(code)


def _shortened(word: re.Match[str]) -> str:
    return f"{word[0][:_SHOWN]}... ({len(word[0])} characters)"


def _in_one_line(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    is_for_script = isinstance(error, click.NoSuchOption) or "unexpected extra argument" in message
    if is_for_script and any(word.partition("=")[0] == "--script" for word in sys.argv):
        said = message.partition(". (")[0]
        return f"{said}: if it is for the script, it goes into --script-args, as in --script-args '--steps 3'"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message}: see '{error.ctx.command_path} --help'"
    return message
