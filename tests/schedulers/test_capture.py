"""Clients of schedulers that print too much, hang, or print what is no text."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vllm_hpc.schedulers.capture import PrintsTooMuchError, capture
from vllm_hpc.schedulers.client import ClientTimeoutError, call_client

pytestmark = [pytest.mark.trust, pytest.mark.timeout(60)]

ENDLESS = "import os\nwhile True: os.write({}, b'x' * 65536)"


@pytest.mark.parametrize("number", [1, 2], ids=["stdout", "stderr"])
def test_a_client_that_prints_without_end_is_stopped(number: int) -> None:
    """As a lost answer: it may have done what it was asked for."""
    with pytest.raises(ClientTimeoutError, match=r"^python\S* printed more than 128 MiB, and was stopped: try it by"):
        call_client([sys.executable, "-c", ENDLESS.format(number)])


def test_it_does_not_go_on(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = f"import os; open({str(mark)!r}, 'w').write(str(os.getpid()))\n{ENDLESS.format(1)}"
    with pytest.raises(PrintsTooMuchError):
        capture([sys.executable, "-c", program], 30.0, {})
    assert not Path("/proc", mark.read_text()).exists()


@pytest.mark.parametrize("program", ["sleep 30", "exec >&- 2>&-; sleep 30", "echo a; sleep 30", "sleep 30 & exit"])
def test_a_client_that_does_not_end_is_not_waited_for(program: str) -> None:
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        capture(["sh", "-c", program], 0.5, {"PATH": "/usr/bin:/bin"})
    assert time.monotonic() - began < 25


def test_what_a_client_prints_is_kept() -> None:
    program = r"printf 'a\r\nb\r\377'; printf é >&2; head -c 300000 /dev/zero | tr '\0' x; exit 3"
    done = capture(["sh", "-c", program], 30.0, {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    assert (done.code, done.err) == (3, "é")
    assert done.out == "a\nb\n\ufffd" + "x" * 300_000


def test_a_client_that_a_signal_ends_has_its_number() -> None:
    assert capture(["sh", "-c", "kill -9 $$"], 30.0, {"PATH": "/usr/bin:/bin"}).code == -9
