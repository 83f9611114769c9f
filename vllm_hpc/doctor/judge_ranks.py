"""What the ranks of doctor's job found: packages and GPUs as torch sees them, and the all-reduce."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from vllm_hpc.doctor.expected import Expected
from vllm_hpc.jobfolder.node_report import MIB, RankFacts
from vllm_hpc.spec.finding import Finding

# GB/s: less than a 100 Gb/s network gives over several nodes, and what TCP gives.
_SLOW_GB_S = 5.0
_EXACT = ("vllm-hpc", "submitit")
_ADVICE = (
    "see NCCL's lines in logs/rank-0.log, and env of the profile (NCCL_SOCKET_IFNAME, NCCL_IB_HCA, NCCL_NET_PLUGIN)"
)


def judge_ranks(facts: Sequence[RankFacts], expected: Expected, log: str = "") -> list[Finding]:
    """What is right and wrong with them. ``log`` is the first rank's, in which NCCL says which network it uses."""
    found: list[Finding] = []
    for one in facts:
        found += _versions(one, facts[0], expected)
        found += _gpus(one, expected)
    return [*found, *_sums(facts, expected, log)]


def _versions(one: RankFacts, first: RankFacts, expected: Expected) -> Iterator[Finding]:
    own, here = expected.versions, one.versions
    wrong = [_differs(name, here, own[name], "here") for name in _EXACT if here.get(name) != own[name]]
    usual = first.versions
    wrong += [
        _differs(name, here, usual.get(name, "none"), f"on {first.host}")
        for name in ("python", "torch", "vllm", "cuda")
        if here.get(name) != usual.get(name)
    ]
    where = "in the image" if expected.has_image else "in the ranks"
    if wrong:
        yield Finding(
            "ranks", "fail", f"{where}: {'; '.join(wrong)}", "use the same environment on all nodes", one.host
        )
    elif expected.has_image:
        words = ", ".join(f"{name} {version}" for name, version in one.versions.items())
        yield Finding("ranks", "ok", f"{where}: {words}", where=one.host)


def _differs(name: str, here: dict[str, str], other: str, where: str) -> str:
    return f"{name} {here.get(name, 'is missing')}, not {other} as {where}"


def _gpus(one: RankFacts, expected: Expected) -> Iterator[Finding]:
    if expected.gpus is None:
        return
    if not one.gpus:
        advice = "install a torch for this GPU; in a container, see its options (--nv, --rocm)"
        yield Finding("torch", "fail", f"torch {one.versions.get('torch')} sees no GPU", advice, one.host)
    elif 1 < one.gpus < expected.procs_per_node or (one.gpus == 1 < expected.procs_per_node and one.backend == "gloo"):
        words = f"torch sees {one.gpus} of {expected.procs_per_node} GPUs"
        yield Finding("torch", "fail", words, "see gpu_flag and gpus_per_node in the profile", one.host)
    else:
        with_ = f", CUDA or ROCm {one.versions['cuda']}" if "cuda" in one.versions else ""
        yield Finding("torch", "ok", f"sees {one.gpus} x {one.gpu_name or 'GPU'}{with_}", where=one.host)


def _sums(facts: Sequence[RankFacts], expected: Expected, log: str) -> Iterator[Finding]:
    broken = [one for one in facts if one.error]
    for one in broken:
        words = f"rank {one.rank}: {' '.join(one.error.split())[:300]}"
        yield Finding("all-reduce", "fail", words, f"{_ADVICE}, GLOO_SOCKET_IFNAME", one.host)
    first = next((one for one in facts if one.sums), None)
    if broken or first is None:
        if not broken:
            yield Finding("all-reduce", "skip", "one rank alone" if facts else "no rank has started")
        return
    best = max(first.sums, key=lambda one: one.size)
    rate = bus_gb_s(best.size, best.seconds, first.ranks)
    measured = f"{best.size // MIB} MiB in {best.seconds * 1000:.3g} ms"
    words = f"{rate:.3g} GB/s by {first.backend}{_network(log)} over {first.ranks} ranks ({measured})"
    if expected.gpus is not None and first.backend == "gloo":
        yield Finding("all-reduce", "fail", words, "the ranks do not have a GPU each: see the other checks")
    elif expected.gpus is not None and expected.nodes > 1 and rate < _SLOW_GB_S:
        yield Finding("all-reduce", "warn", words, _ADVICE)
    else:
        yield Finding("all-reduce", "ok", words)


def bus_gb_s(size: int, seconds: float, ranks: int) -> float:
    """The bus bandwidth in GB/s, which does not depend on the number of ranks: 2 (n - 1) / n x size / time.

    As nccl-tests computes it (doc/PERFORMANCE.md there).
    """
    return 2 * (ranks - 1) / ranks * size / max(seconds, 1e-9) / 1e9


def _network(log: str) -> str:
    found = re.findall(r"NCCL INFO .*Using network (\S+)", log)
    return f" ({found[-1]})" if found else ""
