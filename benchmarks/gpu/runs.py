"""The processes of a case: started, told when it is their turn, waited for, and killed where time is up.

The next case's ranks import vLLM (some 20 s) while the one before loads its model, and wait before they touch a GPU:
what a start takes is no measure then (benchmarks.gpu.start has it).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks.gpu.case import Case
from benchmarks.gpu.results import Line
from benchmarks.gpu.shapes import make
from benchmarks.gpu.submit import run_submit
from vllm_hpc.engine.health.watchdog import kill_children


class Run:
    """One case's processes. A submit has none: its job begins when its turn has come, as its user's would."""

    def __init__(self, case: Case, work: Path) -> None:
        make(case.shape, work / case.shape)
        self.case, self._model = case, work / case.shape
        self._out = work / f"case-{time.time_ns()}"
        (self._out / "jobs").mkdir(parents=True)
        (self._out / "case.json").write_bytes(msgspec.json.encode(case))
        self._process = None if self.is_submit else self._start()

    @property
    def is_submit(self) -> bool:
        """Whether it goes through `vllm-hpc submit`."""
        return "submit" in self.case.ways

    @property
    def _is_one_process(self) -> bool:
        return bool({"mp", "native"} & set(self.case.ways))

    def _start(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "benchmarks.gpu.rank", str(self._out / "case.json"), str(self._out)]
        if self.case.gpus > 1 and not self._is_one_process:
            words[1:2] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.case.gpus}", "-m"]
        environment = os.environ | {"VLLM_HPC_BENCHMARK_TURN": str(self._out / "turn")}
        with (self._out / "log").open("wb") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=environment)

    def begin(self) -> None:
        """It is its turn."""
        (self._out / "turn").touch()

    def finish(self, seconds: float) -> list[Line]:
        """What its ranks have told when all have ended; nothing, and why, where one has not told all."""
        if self._process is None:
            return run_submit(self.case, self._model, self._out, seconds)
        try:
            how = f"exit code {self._process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            how = "cut off"
            self.kill()
        found = [Line.of(self.case, file.read_bytes()) for file in sorted(self._out.glob("*.jsonl"))]
        if not all(line.figures for line in found) or len(found) < (1 if self._is_one_process else self.case.gpus):
            log = self._out / "log"
            print(f"  {how}; {log} ends with:\n" + "\n".join(log.read_text().splitlines()[-15:]))
            return []
        return found

    def kill(self) -> None:
        """End its processes, also those that torchrun and vLLM have started: they would keep the GPUs' memory."""
        if self._process is not None and self._process.poll() is None:
            kill_children(self._process.pid)
            self._process.kill()
            self._process.wait()


def run_all(cases: list[Case], work: Path, left: Callable[[], float]) -> Iterator[list[Line]]:
    """Run one after another as long as ``left()`` seconds are more than none; yields each one's lines."""
    waiting: Run | None = None
    try:
        for number, case in enumerate(cases):
            if left() <= 0:
                print(f"time is up; not run: {len(cases) - number} of {len(cases)}, the next {case.title}", flush=True)
                return
            print(case.title, flush=True)
            run, waiting = waiting or Run(case, work), None
            try:
                run.begin()
                following = cases[number + 1 : number + 2]
                if following and not run.is_submit and "submit" not in following[0].ways:
                    waiting = Run(following[0], work)
                yield run.finish(left())
            finally:
                run.kill()
    finally:
        if waiting:
            waiting.kill()
