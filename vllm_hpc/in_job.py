"""The one door for what a job's script calls: ``python -m vllm_hpc.in_job VERB ...``.

A script may wait in a queue for days, and runs with whatever version is installed by then. So what a verb is called,
and what it takes, stays as it is; where the work behind it lies may change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from vllm_hpc.spec.errors import VllmHpcError

# Verb -> what it takes, and the module whose ``main`` does it.
VERBS = {
    "rank": ("FOLDER", "vllm_hpc.schedulers.in_script.rank"),
    "rendezvous": ("JOB_ID", "vllm_hpc.schedulers.in_script.master_port"),
    "requeue": ("FOLDER ATTEMPT CODE", "vllm_hpc.schedulers.in_script.requeue"),
    "resubmit": ("FOLDER ATTEMPT again|over", "vllm_hpc.schedulers.in_script.resubmit"),
    "check-host": ("FOLDER ATTEMPT", "vllm_hpc.schedulers.in_script.check_host"),
    "doctor": ("FOLDER NODE", "vllm_hpc.engine.doctor.node"),
    "export": ("[NAME ...]", "vllm_hpc.schedulers.in_script.export_environment"),
}


def main(argv: list[str]) -> int:
    """Do what the verb says, and return its exit code; 2 where there is no such verb."""
    if not argv or argv[0] not in VERBS:
        usage = "\n".join(f"  {verb} {takes}" for verb, (takes, _) in VERBS.items())
        print(f"usage: python -m vllm_hpc.in_job VERB ...\n{usage}", file=sys.stderr)
        return 2
    run: Callable[[list[str]], int] = import_module(VERBS[argv[0]][1]).main
    try:
        return run(argv[1:])
    except VllmHpcError as error:
        print(f"vllm-hpc: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
