"""What PBS cannot be asked for, said before anything is made."""

from __future__ import annotations

import re

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.request import Request

_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
_OF_THE_LAYOUT = frozenset(
    {"-n", "-np", "--np", "-ppn", "--ppn", "-N", "-npernode", "--npernode", "--map-by", "-map-by", "-H", "-host"}
    | {"--host", "-hosts", "-hostfile", "--hostfile", "-machinefile", "--machinefile", "-f"}
)


def check_request(request: Request, profile: Profile, layout: Layout) -> None:
    """A request whose parts PBS, and the profile's grammar, have words for. Raises RequestError."""
    if request.qos or profile.qos:
        raise RequestError(f"{_origin('qos', request.qos)} is Slurm's: PBS has queues, name one with --queue")
    memory = request.mem or profile.mem
    if memory is not None and not int("".join(c for c in memory if c.isdigit())):
        raise RequestError(
            f"{_origin('mem', request.mem)} {memory}: PBS cannot be asked for all of a node's memory: name an amount, "
            "or leave it out (exclusive = true in a profile gives whole nodes)"
        )
    _check_account(request, profile)
    launcher = profile.launcher if request.launcher == "native" else request.launcher or profile.launcher
    _check_launcher_options(launcher, profile.launcher_options)
    grammar = profile.gpu_request
    if profile.chunk and grammar in ("totals", "nodes"):
        raise RequestError(f"chunk cannot be used with gpu_request = {grammar!r}: use resources in the profile")
    if profile.exclusive and grammar in ("totals", "nodes"):
        raise RequestError(
            f"exclusive = true cannot be expressed with gpu_request = {grammar!r}: leave it out of the profile"
        )
    if grammar == "totals" and layout.nodes > 1 and not (request.cpus_per_rank or profile.cpus_per_rank):
        raise RequestError(
            f"gpu_request = 'totals' asks for cores, and PBS makes {layout.nodes} nodes of them: say how many each "
            "rank has, with --cpus-per-rank or cpus_per_rank in the profile"
        )


def _origin(key: str, given: object) -> str:
    return f"--{key}" if given is not None else f"{key} in the profile"


def _check_account(request: Request, profile: Profile) -> None:
    """PBS takes ASCII; and what stands in -W ends at a comma, where another attribute would begin."""
    account = request.account or profile.account
    for key, value in (("account", account), ("queue", request.partition or profile.partition)):
        if value is not None and not value.isascii():
            raise RequestError(f"{key} {value!r} holds more than ASCII, which is all that PBS takes")
    if account and profile.account_flag == "-W group_list" and not _GROUP.fullmatch(account):
        raise RequestError(
            f"account must be a group's name (letters, digits and '_.@-') for -W group_list, not {account!r}"
        )


def _check_launcher_options(launcher: str | None, options: tuple[str, ...]) -> None:
    """How many tasks an MPI starts, and where, follows from the layout. pbsdsh is told with its own -n."""
    found = next((word for word in options if word.partition("=")[0] in _OF_THE_LAYOUT), None)
    if found and (launcher in ("mpiexec", "openmpi") or found == "-n"):
        raise RequestError(f"launcher_options {found} is not yours to set here: it follows from the layout")


def check_folder(folder: JobFolder) -> None:
    """A folder whose log qsub takes: its -o knows ASCII only, and fills in ^array_index^. Raises RequestError."""
    path = str(folder.path)
    odd = next((character for character in path if not character.isascii()), None)
    if odd:
        raise RequestError(f"{path!r} holds {odd!r}, and PBS takes only ASCII: choose another --name or --job-dir")
    if "^array_index^" in path:
        raise RequestError(f"{path!r} holds '^array_index^', which PBS replaces: choose another --name or --job-dir")
