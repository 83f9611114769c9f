"""How a rank whose work is done ends: at once, with exit code 0, whatever the libraries in it would do yet."""

from __future__ import annotations

import atexit
import os
import sys


class Leaving:
    """Ends this process as soon as Python's own exit handlers have run, if the work ``is_done`` by then.

    What would follow is the end of CUDA, NCCL, OpenMP and of threads in C++: it takes seconds, and now and then a
    process aborts or hangs in it. torchrun and the scheduler would call a job failed of which every row is written.
    To be made before the libraries are imported: handlers run in reverse, so theirs come before this one.
    """

    def __init__(self) -> None:
        self.is_done = False
        atexit.register(self._leave)

    def _leave(self) -> None:
        # Set by an error that nobody caught: submitit could not write the result down, say.
        has_raised = hasattr(sys, "last_type")
        if self.is_done and not has_raised:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
