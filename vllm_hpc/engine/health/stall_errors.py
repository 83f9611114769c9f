"""The errors of a rank that hangs: what it has been doing for too long."""

from __future__ import annotations

from vllm_hpc.engine.health.rank_record import Mark, PeerStalledError, Phase
from vllm_hpc.jobfolder.debug_records import Collective

_WORDS = {
    Phase.STEP: "the engine has been in one step {limit}: ranks wait for each other, or a kernel hangs",
    Phase.CLAIM: "the rank has been claiming rows {limit}: the job folder's file system or the job's store hangs",
    Phase.READ: "the rank has been waiting for a row {limit}: the input's file system, tokenizer or grammar hangs",
    Phase.ADMIT: "the rank has been admitting row {row} {limit}: vLLM, or the row's grammar, does not finish",
    Phase.WRITE: "the rank has been waiting to hand over finished rows {limit}: the job folder's file system hangs",
    Phase.PROGRAM: "the program's on_output has had row {row} {limit}: it waits for another rank, or does not end",
    Phase.AGREE: "the rank has been waiting for its replica's other ranks {limit}: one of them hangs, or is gone",
}


def stall(mark: Mark, stall_s: float) -> TimeoutError:
    """The error of a rank that has not got beyond ``mark``."""
    what = _WORDS[mark.phase].format(limit=f"for more than {stall_s:g} s", row=mark.row)
    if mark.phase is Phase.STEP:
        return TimeoutError(f"{what}; its log has the stacks (longer steps: --env VLLM_HPC_STALL_S=SECONDS)")
    kind = PeerStalledError if mark.phase is Phase.AGREE else TimeoutError
    return kind(
        f"between two steps of the engine {what}; its log has the stacks, and no row is suspected: "
        "fix that, then run 'vllm-hpc resume' (longer waits: --env VLLM_HPC_STALL_S=SECONDS)"
    )


def endless(at: Collective, wait_s: float) -> TimeoutError:
    """The error of a rank whose own code waits for others without end."""
    where = f" at {at.site.words}" if at.site else ""
    return TimeoutError(
        f"the rank has been in {at.operation}{where} for more than {wait_s:g} s: ranks wait for each other; "
        "its log has the stacks (longer waits: --env VLLM_HPC_STALL_S=SECONDS)"
    )
