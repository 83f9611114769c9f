"""Faults before a row is finished: which are alike, which are the machine's by their words, and when a probe is due."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests import crafted
from vllm_hpc.jobfolder.early_faults import EarlyFault, early_faults, needs_probe, repeated_fault
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Claimed, Crash
from vllm_hpc.jobfolder.shards import has_result

pytestmark = pytest.mark.inputs

ROWS = Claimed(chunk=0)
PROBE = Claimed(probe=True)
LAUNCH = "CUDA error: unspecified launch failure"


def fault(message: str, kind: str = "RuntimeError") -> EarlyFault:
    return EarlyFault(kind, message, in_probe=False)


# Of public reports (vllm-project/vllm issues 2997, 4604, 22008; of torch and flashinfer), of cudaGetErrorString (CUDA
# 13), and the first of a machine without g++ (torch 2.13.0).
NO_COMPILER = "InvalidCxxCompiler: No working C++ compiler found"
OF_MACHINE = [
    ("InductorError", f"{NO_COMPILER} in torch._inductor.config.cpp.cxx: (None, 'g++')"),
    ("BackendCompilerFailed", "backend='inductor' raised:\n" + NO_COMPILER),
    ("RuntimeError", "Failed to find C compiler. Please specify via CC environment variable."),
    ("RuntimeError", "Ninja build failed. Ninja output:\nninja: Entering directory `/home/u/.cache/flashinfer'"),
    ("RuntimeError", "Ninja is required to load C++ extensions (pip install ninja to get it)"),
    ("RuntimeError", "Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: 'g++'"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: '/usr/local/cuda/bin/nvcc'"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: '/opt/triton/backends/nvidia/bin/ptxas'"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: '/usr/bin/x86_64-linux-gnu-gcc-12'"),
    ("CppCompileError", "C++ compile error\n\nCommand:\ng++ /tmp/torchinductor_u/x.cpp"),
    ("RuntimeError", "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"),
    ("RuntimeError", "CUDA error: the provided PTX was compiled with an unsupported toolchain."),
    ("RuntimeError", "CUDA driver initialization failed, you might not have a CUDA gpu."),
    ("RuntimeError", "CUDA driver version is insufficient for CUDA runtime version"),
    ("RuntimeError", "Found no NVIDIA driver on your system."),
    ("RuntimeError", "No CUDA GPUs are available: no CUDA-capable device is detected"),
    ("AcceleratorError", "CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    ("RuntimeError", "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"),
    ("RuntimeError", "CUDA error: uncorrectable ECC error encountered"),
    ("OSError", "libcudart.so.12: cannot open shared object file: No such file or directory"),
    ("ImportError", "/opt/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEa"),
    ("ImportError", "/lib64/libstdc++.so.6: version `GLIBCXX_3.4.29' not found (required by libicui18n.so.73)"),
]  # fmt: skip
MAY_BE_A_ROWS = [
    ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    ("RuntimeError", "CUDA error: an illegal memory access was encountered"),
    ("RuntimeError", "CUDA error: device-side assert triggered"),
    ("RuntimeError", LAUNCH),
    ("RuntimeError", "NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)"),
    ("IndexError", "index out of range in self"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: '/data/images/cat.png'"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: '/data/old/cc.json'"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: '/data/gcc/world'"),
    ("ValueError", "Token id 1000000 is out of vocabulary"),
    ("TimeoutError", "the engine has been in one step for more than 900 s: ranks wait for each other"),
    ("SIGSEGV", "a segmentation fault, in libtorch_cpu.so"),
    ("ModuleNotFoundError", "No module named 'outlines'"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "message"), OF_MACHINE)
def test_no_row_can_cause_it(kind: str, message: str) -> None:
    assert fault(message, kind).is_of_machine


@pytest.mark.parametrize(("kind", "message"), MAY_BE_A_ROWS)
def test_a_row_may_cause_it(kind: str, message: str) -> None:
    assert not fault(message, kind).is_of_machine


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("illegal address 0x7f2b8c000000 at step 12", "illegal address 0x7f1100000040 at step 7"),
        ("C++ compile error\n  /tmp/torchinductor_a/xy/cxyz1.cpp", "C++ compile error /scratch/b/ab/cq3b7.cpp"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA out of memory. Tried to allocate 512.50 GiB"),
        ("rank 3 on gpu-017: no route to host", "rank 11 on gpu-002: no route to host"),
        (LAUNCH + "\n" + "frame #0: 0xabc\n" * 200, LAUNCH + "\n" + "frame #0: 0xdef\n" * 201),
        ("an illegal instruction, in libx.so (f), called by g (/a/b.py, line 4)",
         "an illegal instruction, in libx.so (f), called by g (/home/me/b.py, line 4)"),
        ("", ""),
    ],
)  # fmt: skip
def test_alike_but_for_numbers_addresses_and_paths(one: str, other: str) -> None:
    assert fault(one).is_like(fault(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (fault(LAUNCH), fault("CUDA error: an illegal memory access was encountered")),
        (fault(LAUNCH), fault(LAUNCH, "AcceleratorError")),
        (fault("in libtorch_cpu.so", "SIGILL"), fault("in libgomp.so", "SIGILL")),
        (fault("no module a"), fault("no module b")),
    ],
)
def test_not_alike(one: EarlyFault, other: EarlyFault) -> None:
    assert not one.is_like(other)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job of two replicas."""
    return crafted.make_job(tmp_path / "job", 10, shape=crafted.layout(dp=2))


def ran(
    folder: JobFolder, attempt: int, line: Claimed | None, error: str | None = None, rows: int = 0,
    replica: int = 0, kind: str = "RuntimeError", code: int = 1, cause: str = "requeue",
) -> None:  # fmt: skip
    """An attempt: the last line of its claims, the error of its engine (None: none), and the rows it finished."""
    if line is not None:
        folder.claimed(replica, attempt).write_bytes(msgspec.json.encode(line) + b"\n")
    if error is not None:
        write_json(folder.crash(replica, attempt), Crash(replica, kind, error))
    if rows:
        crafted.write_lines(folder.shard(replica, attempt), [crafted.result(row) for row in range(rows)])
    if not folder.attempt(attempt).exists():
        crafted.start(folder, attempt)
    crafted.end(folder, code, cause, attempt)


BOTH = range(2)


def test_a_result_is_found_behind_errors_and_torn_lines(tmp_path: Path) -> None:
    shard = tmp_path / "replica-0.1.jsonl"
    assert not has_result(shard)
    error = {"index": 0, "id": "0", "error": {"type": "X", "message": ""}}
    crafted.write_lines(shard, [error] * 3, torn='{"index": 4, "text"')
    assert not has_result(shard)
    shard.write_bytes(b"\0\0\0\n{}\n" + shard.read_bytes().rpartition(b"\n")[0] + b'\n{"index": 5, "text": "a"}\n')
    assert has_result(shard)


def test_a_fault_is_early_where_its_own_replica_has_finished_no_row(folder: JobFolder) -> None:
    ran(folder, 1, ROWS, LAUNCH, replica=0)
    ran(folder, 1, ROWS, rows=5, replica=1)
    assert early_faults(folder, BOTH, 1) == [fault(LAUNCH)]
    ran(folder, 2, ROWS, LAUNCH, rows=1)
    assert early_faults(folder, BOTH, 2) == []
    ran(folder, 3, None, LAUNCH)  # it had not begun
    assert early_faults(folder, BOTH, 3) == []


@pytest.mark.parametrize(("code", "cause"), [(0, "exit"), (0, "requeue"), (143, "TERM"), (143, "cancelled")])
def test_an_end_that_was_ordered_is_no_fault(folder: JobFolder, code: int, cause: str) -> None:
    ran(folder, 1, ROWS, code=code, cause=cause)
    assert early_faults(folder, BOTH, 1) == []
    assert not needs_probe(folder, BOTH, [1])


def test_a_probe_is_due_after_an_end_without_a_finished_row(folder: JobFolder) -> None:
    assert not needs_probe(folder, BOTH, [])
    ran(folder, 1, ROWS, LAUNCH)
    assert needs_probe(folder, BOTH, [1])
    ran(folder, 2, None)  # it died while it loaded
    assert needs_probe(folder, BOTH, [1, 2])
    ran(folder, 3, ROWS, code=143, cause="TERM")  # preempted before a row was finished
    assert needs_probe(folder, BOTH, [1, 2, 3])
    ran(folder, 4, ROWS, "another", rows=3)
    assert not needs_probe(folder, BOTH, [1, 2, 3, 4])
    ran(folder, 5, ROWS)  # a rank vanished
    assert needs_probe(folder, BOTH, [1, 2, 3, 4, 5])


def test_a_probe_that_has_raised_is_not_run_again_but_one_that_vanished_is(folder: JobFolder) -> None:
    ran(folder, 1, ROWS, LAUNCH)
    ran(folder, 2, PROBE, "this model cannot do that")
    assert not needs_probe(folder, BOTH, [1, 2])
    ran(folder, 3, PROBE)
    assert needs_probe(folder, BOTH, [1, 2, 3])


@pytest.mark.parametrize(
    ("attempts", "has_done", "like"),
    [
        ([(ROWS, LAUNCH + " 0x7f"), (PROBE, LAUNCH + " 81")], False, 1),
        ([(ROWS, LAUNCH), (PROBE, LAUNCH)], True, 1),  # rows of an earlier submission say nothing of this machine
        ([(PROBE, LAUNCH), (ROWS, LAUNCH)], False, 1),
        ([(ROWS, LAUNCH), (None, None), (PROBE, LAUNCH)], False, 1),
        ([(ROWS, "another"), (ROWS, LAUNCH), (PROBE, LAUNCH)], False, 2),
        ([(ROWS, LAUNCH), (ROWS, "another"), (PROBE, LAUNCH)], False, 1),
        ([(ROWS, "no kernel image is available"), (ROWS, "no kernel image is available")], False, 1),
        ([(ROWS, "no kernel image is available"), (ROWS, "no kernel image is available")], True, None),
        ([(ROWS, LAUNCH), (ROWS, LAUNCH)], False, None),  # a row may be the cause
        ([(ROWS, LAUNCH), (PROBE, "another")], False, None),
        ([(ROWS, LAUNCH)], False, None),
        ([(PROBE, LAUNCH)], False, None),
        ([(ROWS, None), (PROBE, None)], False, None),  # ranks that vanished may have been killed
        ([(ROWS, None), (PROBE, LAUNCH)], False, None),
    ],
)
def test_the_machine_is_the_cause_of_faults_that_are_alike(
    folder: JobFolder, attempts: list[tuple[Claimed | None, str | None]], has_done: bool, like: int | None
) -> None:
    for number, (line, error) in enumerate(attempts, start=1):
        ran(folder, number, line, error)
    found = repeated_fault(folder, BOTH, range(1, len(attempts) + 1), has_done)
    assert (found and found[0]) == like
    assert found is None or found[1].message == attempts[-1][1]


def test_a_row_that_was_finished_in_between_ends_the_comparison(folder: JobFolder) -> None:
    ran(folder, 1, ROWS, LAUNCH)
    ran(folder, 2, ROWS, "another", rows=1)
    ran(folder, 3, PROBE, LAUNCH)
    assert repeated_fault(folder, BOTH, [1, 2, 3], has_done=True) is None


def test_the_second_time_it_may_be_another_replica(folder: JobFolder) -> None:
    """Replica 0 is on the bad node first, then replica 1."""
    ran(folder, 1, ROWS, LAUNCH, replica=0)
    ran(folder, 2, PROBE, LAUNCH, replica=1)
    assert repeated_fault(folder, BOTH, [1, 2], has_done=False) == (
        1,
        EarlyFault("RuntimeError", LAUNCH, in_probe=True),
    )
