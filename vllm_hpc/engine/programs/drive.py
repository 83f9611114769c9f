"""A program that drives the engine itself: its ``run(ctx)``, instead of the rank loop."""

from __future__ import annotations

from typing import Any

from vllm_hpc.engine.health import fatal_signals
from vllm_hpc.engine.job_template import with_chat_template
from vllm_hpc.engine.makers import engine_maker
from vllm_hpc.engine.programs.call import call_part
from vllm_hpc.engine.programs.load import UserProgram, load_program
from vllm_hpc.engine.rank_part import RankPart
from vllm_hpc.jobfolder.secret import job_secret


def drive(part: RankPart) -> None:
    """Run this rank's part of a program with ``run``. Raises whatever it raises."""
    program = part.record.program
    assert program is not None
    part = part._replace(record=with_chat_template(part.job, part.record))
    report, standing = part.report, part.standing
    maker = engine_maker(part)
    maker.load(report)
    fatal_signals.tell_modules()
    user = load_program(part.job, program)
    report.locate = user.locate
    from vllm_hpc.engine.programs.context import Context
    from vllm_hpc.engine.programs.started import Started
    from vllm_hpc.engine.startup import replicas

    with report.timed("load"):
        world = replicas.meet(job_secret(part.job), standing.rank, standing.world_size)
        replica = maker.join(world)
        report.device = replica.device
        maker.make(report)
    _run(user, part, Context(part, Started(world, replica, maker.llm)))
    maker.release(world.store)
    world.leave()


def _run(user: UserProgram, part: RankPart, context: Any) -> None:
    """Call what the program has, one after the other; ``sys.exit()`` in it ends the part that it is called in."""
    for name, call in (("setup", user.setup), ("run", user.run), ("teardown", user.teardown)):
        if call is None:
            continue
        with part.report.timed(name):
            try:
                call_part(name, call, context)
            except SystemExit as error:
                if error.code:  # None and 0 mean success
                    raise
