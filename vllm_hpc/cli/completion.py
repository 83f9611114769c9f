"""completion: the script by which a shell completes vllm-hpc's commands, options, jobs and profiles."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from vllm_hpc.cli.command import command
from vllm_hpc.cli.output import print_raw

# What a shell's script sets to ask for completions; click makes it of the name of the program.
_VARIABLE, _PROGRAM = "_VLLM_HPC_COMPLETE", "vllm-hpc"


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> int:
    """Print the script that has a shell complete vllm-hpc's words with Tab.

    \b
    bash, in ~/.bashrc:                   eval "$(vllm-hpc completion bash)"
    zsh, in ~/.zshrc, after compinit:     eval "$(vllm-hpc completion zsh)"
    fish, in ~/.config/fish/config.fish:  vllm-hpc completion fish | source

    Jobs are completed by name and id, --profile, --partition and --gpu from the profiles; no scheduler is asked.
    """
    from vllm_hpc.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None  # click has these three
    # Not source(): of bash it first runs one to ask for its version, and the shell may be on another machine.
    script = kind(cli, {}, _PROGRAM, _VARIABLE)
    print_raw(script.source_template % script.source_vars())
    return 0
