"""Has this process say where it was when a signal such as SIGILL ends it. jobfolder/fatal_signals.py reads that.

Python's faulthandler writes the Python stack, and may do so in any state of the process. torch adds the C++ stack, with
the libraries. It allocates memory for that, which hangs if the signal came inside malloc: so it is asked only for
signals that do not come there.
"""

from __future__ import annotations

import faulthandler
import signal
from contextlib import suppress

# What torch's handler replaces (c10/util/signal_handler.cpp) and must not: a corrupted heap ends in SIGSEGV or SIGABRT,
# often while malloc holds its lock; SIGINT is Python's.
_NOT_TORCHS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGINT)


def tell_python_stack() -> None:
    """Write the Python stacks to this process's standard error, which is its log."""
    faulthandler.enable()


def tell_modules() -> None:
    """Also write the C++ stacks, for SIGILL, SIGBUS and SIGFPE. Call it on the main thread, once torch is imported.

    Python writes them itself, for all signals, from 3.14 on. A torch that cannot is left alone.
    """
    import torch

    ours = {number: signal.getsignal(number) for number in _NOT_TORCHS}
    faulthandler.disable()
    with suppress(AttributeError):
        torch._C._set_print_stack_traces_on_fatal_signal(True)
    for number, handler in ours.items():
        if handler is not None:
            signal.signal(number, handler)
    faulthandler.enable()  # first in the chain: it calls torch's handler when it has written
