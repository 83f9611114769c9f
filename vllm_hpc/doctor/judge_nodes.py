"""What the reports of nodes mean. Pure functions: reports and what was expected in, findings out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from vllm_hpc.doctor.expected import Expected
from vllm_hpc.jobfolder.node_report import NodeReport
from vllm_hpc.spec.finding import Finding, Result
from vllm_hpc.spec.host_path import HostPath

# Seconds: a write of a small file, a file's way to another node, a clock. And the least share of a GPU's memory.
_SLOW_WRITE_S, _SLOW_SIGHT_S, _SKEW_S, _LEAST_MEMORY = 0.2, 10.0, 1.0, 0.95
_LEAST_FREE_GIB = 1.0
# Packages in which another patch level is another program.
_EXACT = ("vllm-hpc", "submitit")
_OTHER_JOB_DIR = "use a --job-dir on a file system that all nodes mount"


def judge_nodes(reports: Sequence[NodeReport], expected: Expected) -> list[Finding]:
    """What is right and wrong with each node, in the order of nodes."""
    heads = {one.node: one for one in reports}
    head = heads.get(0)
    found: list[Finding] = []
    for report in reports:
        found += _judge(report, expected)
        found += _port(report, head, expected)
        found += _among(report, reports)
    return found


def _judge(report: NodeReport, expected: Expected) -> Iterator[Finding]:
    """What a node's report says by itself."""
    yield from _versions(report, expected)
    yield _gpus(report, expected)
    yield _network(report)
    yield from _interfaces(report)
    yield _folder(report)
    if report.node:
        yield _sharing(report)
        yield _clock(report)
    yield _memory(report, expected)
    if report.model is not None:
        yield _model(report.model, report, expected)
    yield from _container(report, expected)


def _versions(report: NodeReport, expected: Expected) -> Iterator[Finding]:
    host, own = report.versions, expected.versions
    wrong = [
        f"{name} {host.get(name, 'is missing')}, not {own[name]}" for name in _EXACT if host.get(name) != own[name]
    ]
    minor = host.get("python", "").split(".")[:2]
    if minor != own["python"].split(".")[:2]:
        wrong.append(f"Python {host.get('python')}, not {own['python']}")
    if wrong:
        advice = "install the same versions there, or see what PATH, PYTHONPATH and the profile's setup change on nodes"
        yield Finding("versions", "fail", "; ".join(wrong) + ", as here", advice, report.host)
        return
    words = ", ".join(f"{name} {version}" for name, version in host.items())
    if "vllm" not in host and not expected.has_image:
        yield Finding(
            "versions", "warn", f"no vllm ({words})", "install vLLM: without it only rehearsals run", report.host
        )
        return
    yield Finding("versions", "ok", words, where=report.host)


def _among(report: NodeReport, reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """What differs from the other nodes: packages of the ranks, and the driver."""
    for name in ("torch", "vllm"):
        own, usual = report.versions.get(name, "none"), _usual([one.versions.get(name, "none") for one in reports])
        if own != usual:
            words = f"{name} {own}, and {usual} on the other nodes"
            yield Finding(
                "versions", "fail", words, "install the same on all nodes, on a shared file system", report.host
            )
    drivers = [one.gpus.driver if one.gpus else "" for one in reports]
    own, usual = (report.gpus.driver if report.gpus else ""), _usual([one for one in drivers if one])
    if own and own != usual:
        yield Finding("driver", "warn", f"{own}, and {usual} on the other nodes", "tell the site", report.host)


def _usual(values: Sequence[str]) -> str:
    """The most frequent value, the first of several."""
    return Counter(values).most_common(1)[0][0] if values else ""


def _gpus(report: NodeReport, expected: Expected) -> Finding:
    found, asked = report.gpus, expected.gpus
    if asked is None:
        words = f"{found.count} there, none asked for" if found else "none asked for"
        return Finding("gpus", "skip", words, where=report.host)
    if found is None:
        advice = "see gpu_flag in the profile and --partition; a profile for the CPU has gpu_flag = 'none'"
        return Finding("gpus", "fail", f"none of {asked}: {report.gpus_error}", advice, report.host)
    words = f"{found.count} x {found.name}, driver {found.driver or 'unknown'}"
    tiles = 2 if found.tool == "xpu-smi" else 1  # ranks may have a tile each
    if found.count * tiles < asked:
        advice = f"exclude {report.host} and tell the site, or correct gpus_per_node in the profile"
        return Finding("gpus", "fail", f"{found.count} of {asked}: {words}", advice, report.host)
    if found.memory_gib and expected.gpu_gib and found.memory_gib < _LEAST_MEMORY * expected.gpu_gib:
        advice = "correct gpu in the profile, or --gpu: plans would not fit"
        said = f"{words} with {found.memory_gib:g} GiB, not {expected.gpu_gib:g}"
        return Finding("gpus", "fail", said, advice, report.host)
    memory = f", {found.memory_gib:g} GiB each" if found.memory_gib else ""
    return Finding("gpus", "ok", words + memory, where=report.host)


def _network(report: NodeReport) -> Finding:
    advice = "see head_suffix and head_command in the profile, which say how nodes reach the head"
    if report.network_error:
        return Finding("network", "fail", report.network_error, advice, report.host)
    if report.head_error and report.address.startswith("127."):
        return Finding("network", "fail", f"{report.address} is this node's own loopback device", advice, report.host)
    return Finding(
        "network", "ok", f"{report.address} on {report.interface or 'an unknown interface'}", where=report.host
    )


def _interfaces(report: NodeReport) -> Iterator[Finding]:
    there = ", ".join(report.interfaces)
    for variable, value in report.wrong_interfaces.items():
        words = f"{variable}={value} names no interface of this node, which has {there}"
        advice = f"correct it in env of the profile, or leave it out: then it is {report.interface or 'chosen'}"
        yield Finding("gloo", "fail", words, advice, report.host)
    if not report.wrong_interfaces:
        yield Finding("gloo", "ok", report.interface.partition(" ")[0] or "chosen by gloo", where=report.host)


def _port(report: NodeReport, head: NodeReport | None, expected: Expected) -> Iterator[Finding]:
    """Whether the head has the port of the rendezvous, and the others reach it."""
    where = f"port {report.port} of {report.head}"
    if report.port_error:
        advice = "another program listens there: let vllm-hpc choose (the template sets VLLM_HPC_PORT), or try again"
        yield Finding("port", "fail", f"{where} cannot be used: {report.port_error}", advice, report.host)
    elif head is not None and head.port_error and report.node:
        yield Finding("port", "skip", "not tried, as the head cannot listen", where=report.host)
    elif report.head_error:
        advice = "see head_suffix and head_command in the profile, and whether a firewall is between nodes"
        yield Finding("port", "fail", f"{where} is not reached: {report.head_error}", advice, report.host)
    elif not report.has_met:
        yield Finding("port", "skip", "not tried: the job ended before the nodes had met", where=report.host)
    elif report.round_trip_s is not None:
        yield Finding("port", "ok", f"{where}, {report.round_trip_s * 1000:.2g} ms", where=report.host)
    elif report.node == 0:
        yield Finding("port", "ok", where, where=report.host)


def _clock(report: NodeReport) -> Finding:
    if report.skew_s is None:
        return Finding("clock", "skip", "not compared with the head's", where=report.host)
    words = f"{abs(report.skew_s):.3f} s {'behind' if report.skew_s > 0 else 'ahead of'} the head's"
    if abs(report.skew_s) > _SKEW_S:
        return Finding("clock", "warn", words, "tell the site: times in logs and of files do not agree", report.host)
    return Finding("clock", "ok", words, where=report.host)


def _folder(report: NodeReport) -> Finding:
    if report.writes is None:
        words = f"the job folder cannot be used: {report.folder_error or 'unknown'}"
        return Finding("job-dir", "fail", words, _OTHER_JOB_DIR, report.host)
    return judge_writes(report.writes.median_s, report.writes.worst_s, report.free_gib, report.host)


def judge_writes(median_s: float, worst_s: float, free_gib: float | None, node: str | None = None) -> Finding:
    """What the speed of a file system means, and what is free there."""
    words = f"a small file takes {_duration(median_s)}, at most {_duration(worst_s)}"
    if free_gib is not None and free_gib < _LEAST_FREE_GIB:
        return Finding(
            "job-dir", "warn", f"{words}; {free_gib:.2g} GiB free", "free some, or use another --job-dir", node
        )
    if median_s > _SLOW_WRITE_S:
        return Finding(
            "job-dir", "warn", words, "use a --job-dir on a faster file system: rows are written there", node
        )
    return Finding("job-dir", "ok", words, where=node)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _sharing(report: NodeReport) -> Finding:
    seen = report.sharing
    if seen is None:
        return Finding("rename", "skip", "not tried: this node has not met the head", where=report.host)
    if seen.visible_s is None:
        words = "a file that the head wrote into the job folder never came"
        return Finding("rename", "fail", words, _OTHER_JOB_DIR, report.host)
    words = f"the head's file came after {seen.visible_s:.3g} s"
    if seen.torn:
        said = f"{words}, but {seen.torn} of {seen.reads} reads found no file, or part of one, while it was replaced"
        return Finding(
            "rename", "fail", said, "use another --job-dir: its file system does not rename in one step", report.host
        )
    words = f"{words}, whole in {seen.reads} reads"
    if seen.visible_s > _SLOW_SIGHT_S:
        return Finding(
            "rename", "warn", words, "use another --job-dir: nodes would wait for each other's files", report.host
        )
    return Finding("rename", "ok", words, where=report.host)


def _memory(report: NodeReport, expected: Expected) -> Finding:
    free, size = report.memory_gib, expected.model.size / (1 << 30) if expected.model else 0.0
    if free is None:
        return Finding("memory", "skip", "unknown", where=report.host)
    words = f"{free:.4g} GiB free for the job" + (f", the model has {size:.3g}" if size else "")
    if size and free < size:
        return Finding(
            "memory", "warn", words, "ask for more with --mem: weights are read again for each rank", report.host
        )
    return Finding("memory", "ok", words, where=report.host)


def _model(seen: HostPath, report: NodeReport, expected: Expected) -> Finding:
    if seen.error:
        status: Result = "warn" if expected.is_on_hub and not expected.offline else "fail"
        advice = "each rank downloads it: fetch it first" if status == "warn" else "put it where all nodes can read it"
        return Finding("model", status, f"{seen.path}: {seen.error}", advice, report.host)
    here = expected.model.size if expected.model else 0
    if here and here != seen.size:
        words = f"{seen.path} has {seen.size:,} bytes, not {here:,} as here"
        return Finding("model", "fail", words, "copy it again: this node has another folder of that name", report.host)
    return Finding("model", "ok", f"{seen.path}, {seen.size / (1 << 30):.3g} GiB", where=report.host)


def _container(report: NodeReport, expected: Expected) -> Iterator[Finding]:
    if not expected.has_image:
        return
    if expected.has_program and not report.runtime:
        advice = "load its module in setup of the profile, or correct container.runtime"
        yield Finding("container", "fail", "what runs the image is not in PATH", advice, report.host)
    elif report.image is not None and report.image.error:
        words = f"{report.image.path}: {report.image.error}"
        yield Finding("container", "fail", words, "put the image where all nodes can read it", report.host)
    else:
        runs = report.runtime or "a plugin of the scheduler"
        words = f"{report.image.path}, run by {runs}" if report.image else f"run by {runs}"
        yield Finding("container", "ok", words, where=report.host)
