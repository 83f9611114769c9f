"""The loop of a lane, one of several of a replica: its turns are those of all lanes."""

from __future__ import annotations

from typing import Any

from vllm_hpc.engine.health.rank_record import Phase
from vllm_hpc.engine.loop.lanes import Lanes, LaneState, Turn
from vllm_hpc.engine.loop.lockstep import Order
from vllm_hpc.engine.loop.loop import Loop


class LaneLoop(Loop):
    """A loop that meets the other lanes before each turn, and takes an idle step where only they have rows."""

    def __init__(self, lanes: Lanes, *given: Any) -> None:
        super().__init__(*given)
        self._lanes = lanes
        # Whether rows on trial run here, and whether another lane's do: then none is claimed or admitted.
        self._is_on_trial = bool(self._trials)
        self._is_held_back = False

    def _goes_on(self) -> bool:
        turn = self._meet(bool(self._in_flight))
        self._is_held_back = not turn.may_admit
        if turn.order is Order.STOP:
            self._order = Order.STOP
        if self._order is Order.STOP or not turn.goes_on:
            return False
        if self._in_flight:
            self._step()
        else:
            if turn.steps:
                self._idle_step()
            self._work()
        return True

    def _meet(self, is_busy: bool) -> Turn:
        self._is_on_trial = self._is_on_trial and bool(self._trials or self._held) and self._order is Order.GO
        state = LaneState(is_busy, is_busy or not self._is_over(), self._order, self._is_on_trial)
        self._report.enter(Phase.AGREE)
        return self._lanes.meet(state)

    def _wants_chunk(self) -> bool:
        return not self._is_held_back and not self._is_on_trial and super()._wants_chunk()

    def _admit(self) -> None:
        if not self._is_held_back:
            super()._admit()

    def _idle_step(self) -> None:
        self._report.enter(Phase.STEP)
        self._meter.begin_step()
        self._engine.idle_step()
        self._meter.end_step(0)
        self._gauge.end_step(self._meter.ended, 0)

    def _run_probe(self) -> None:
        """Each lane decides by itself whether it has one, and may see other files than the others do."""
        super()._run_probe()
        while self._meet(is_busy=False).steps:  # another lane's takes longer
            self._idle_step()

    def _probe_step(self) -> list[Any]:
        self._meet(is_busy=True)
        return super()._probe_step()
