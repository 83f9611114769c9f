"""Refuses what PBS cannot be asked for, before anything is made."""

from __future__ import annotations

import re

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.resolved_job import ResolvedJob

_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
# src/include/pbs_entlim.h, ETLIM_INVALIDCHAR: qsub says "Illegal attribute or resource value project". An account of -A
# may contain any of them.
_NOT_IN_A_PROJECT = '/[]";:|<>+,?*'
_OF_THE_LAYOUT = frozenset(
    {"-n", "-np", "--np", "-ppn", "--ppn", "-N", "-npernode", "--npernode", "--map-by", "-map-by", "-H", "-host"}
    | {"--host", "-hosts", "-hostfile", "--hostfile", "-machinefile", "--machinefile", "-f"}
)


def check_request(job: ResolvedJob, layout: Layout) -> None:
    """Check that PBS, with the profile's gpu_request, can express the request. Raises RequestError."""
    request, site = job.request, job.site
    if request.qos:
        raise RequestError(f"{_origin(job, 'qos')} works only with Slurm: on PBS, choose a queue with --queue")
    if request.mem is not None and not int("".join(c for c in request.mem if c.isdigit())):
        raise RequestError(
            f"{_origin(job, 'mem')} {request.mem}: PBS cannot be asked for all of a node's memory: give an amount, "
            "or leave it out (exclusive = true in the profile requests whole nodes)"
        )
    _check_account(job)
    _check_launcher_options(job.launcher, site.launcher_options)
    grammar = site.gpu_request
    if site.chunk and grammar in ("totals", "nodes"):
        raise RequestError(f"chunk cannot be used with gpu_request = {grammar!r}: use resources in the profile")
    if site.exclusive and grammar in ("totals", "nodes"):
        raise RequestError(
            f"exclusive = true cannot be expressed with gpu_request = {grammar!r}: leave it out of the profile"
        )
    if grammar == "totals" and layout.nodes > 1:
        _check_totals(job, layout)
    _check_ascii(job)


def _check_totals(job: ResolvedJob, layout: Layout) -> None:
    """Totals do not say how many nodes: only those of whole nodes cannot be met on fewer. Raises RequestError."""
    request, site = job.request, job.site
    if not (request.cpus_per_rank or site.cpus_per_node):
        raise RequestError(
            f"gpu_request = 'totals' requests cores, which PBS spreads over {layout.nodes} nodes: give the cores of "
            "each rank with --cpus-per-rank, or cpus_per_rank in the profile"
        )
    if site.gpus_per_node != layout.gpus_per_node:
        has = f"{site.gpus_per_node} (gpus_per_node)" if site.gpus_per_node else "not told (gpus_per_node)"
        raise RequestError(
            f"gpu_request = 'totals' must be of whole nodes for a job of {layout.nodes} nodes, which may else land on "
            f"fewer: it has {layout.gpus_per_node} GPUs of each node, of which the profile says that it has {has}; use "
            "all of them, or --nodes 1"
        )


def _check_ascii(job: ResolvedJob) -> None:
    """Check the lines that get into the script as they are: Miyabi's qsub refuses a script that is not ASCII."""
    site = job.site
    lines = {"directive": job.request.directive, "directives": site.directives, "setup": site.setup}
    lines |= {"node_setup": site.node_setup, "head_command": (site.head_command or "",)}
    for key, values in lines.items():
        odd = next((text for text in values if not text.isascii()), None)
        if odd is not None:
            advice = "" if key.startswith("directive") else "; in a shell's line $'\\303\\251' is 'é'"
            raise RequestError(f"{key} must be ASCII for PBS: some sites take no other script; not {odd!r}{advice}")


def _origin(job: ResolvedJob, key: str) -> str:
    return f"--{key}" if job.is_asked(key) else f"{key} in the profile"


def _check_account(job: ResolvedJob) -> None:
    """Check for ASCII, which is all that PBS takes. A value of -W ends at a comma, where another attribute begins."""
    request = job.request
    for key, value in (("account", request.account), ("queue", request.partition)):
        if value is not None and not value.isascii():
            raise RequestError(f"{key} must be ASCII for PBS, not {value!r}")
    odd = next((c for c in request.account or "" if c in _NOT_IN_A_PROJECT), None)
    if odd and job.site.account_flag == "-P":
        raise RequestError(
            f"account must be one project for -P, whose name cannot contain {odd!r} in PBS, not {request.account!r}"
        )
    if request.account and job.site.account_flag == "-W group_list" and not _GROUP.fullmatch(request.account):
        raise RequestError(
            f"account must be a group's name (letters, digits and '_.@-') for -W group_list, not {request.account!r}"
        )


def _check_launcher_options(launcher: str, options: tuple[str, ...]) -> None:
    """Refuse options that say how many tasks start, and where. With pbsdsh, only its own -n does."""
    found = next((word for word in options if word.partition("=")[0] in _OF_THE_LAYOUT), None)
    if found and (launcher in ("mpiexec", "openmpi") or found == "-n"):
        raise RequestError(f"launcher_options cannot contain {found}: it follows from the layout")


def check_folder(folder: JobFolder) -> None:
    """Check the log's path: qsub's -o takes only ASCII, and replaces ^array_index^. Raises RequestError."""
    path = str(folder.path)
    odd = next((character for character in path if not character.isascii()), None)
    if odd:
        raise RequestError(f"{path!r} contains {odd!r}, but PBS takes only ASCII: choose another --name or --job-dir")
    if "^array_index^" in path:
        raise RequestError(f"{path!r} contains '^array_index^', which PBS replaces: choose another --name or --job-dir")
