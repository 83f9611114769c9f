"""What PBS cannot be asked for, said before anything is made."""

from __future__ import annotations

from vllm_hpc.errors import RequestError
from vllm_hpc.jobfolder import JobFolder
from vllm_hpc.layout import Layout
from vllm_hpc.profiles import Profile
from vllm_hpc.request import Request


def check_request(request: Request, profile: Profile, layout: Layout) -> None:
    """A request whose parts PBS, and the profile's grammar, have words for. Raises RequestError."""
    if request.qos or profile.qos:
        raise RequestError("--qos is Slurm's: PBS has queues, name one with --queue")
    memory = request.mem or profile.mem
    if memory is not None and not int("".join(c for c in memory if c.isdigit())):
        raise RequestError(
            f"--mem {memory}: PBS has no word for all of a node's memory: name an amount, or leave it out "
            "(exclusive = true in a profile gives whole nodes)"
        )
    grammar = profile.gpu_request
    if profile.exclusive and grammar in ("totals", "nodes"):
        raise RequestError(f"exclusive = true has no word with gpu_request = {grammar!r}: leave it out of the profile")
    if grammar == "totals" and layout.nodes > 1 and not (request.cpus_per_rank or profile.cpus_per_rank):
        raise RequestError(
            f"gpu_request = 'totals' asks for cores, and PBS makes {layout.nodes} nodes of them: say how many each "
            "rank has, with --cpus-per-rank or cpus_per_rank in the profile"
        )


def check_folder(folder: JobFolder) -> None:
    """A folder whose log qsub takes: its -o knows ASCII only, and fills in ^array_index^. Raises RequestError."""
    path = str(folder.path)
    odd = next((character for character in path if not character.isascii()), None)
    if odd:
        raise RequestError(f"{path!r} holds {odd!r}, and PBS takes only ASCII: choose another --name or --job-dir")
    if "^array_index^" in path:
        raise RequestError(f"{path!r} holds '^array_index^', which PBS replaces: choose another --name or --job-dir")
