"""The pods of a manifest as processes of this machine: with the operator's environment, and its restarts.

A pod here is the command of a manifest, with its arguments as Kubernetes expands them, in a session of its own.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

Object = dict[str, Any]
# Exit codes from here on have the operator start a pod anew (training-operator, pkg/util/train, IsRetryableExitCode).
RETRYABLE = 128
# What a test's environment and its pods have in common.
_SHARED = ("PATH", "TMPDIR", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT")


def read_manifest(folder: Path) -> Object:
    """The object of a job's manifest."""
    import yaml

    found: Object = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8"))
    return found


def expand(text: str, environment: dict[str, str]) -> str:
    """A word of a command as the kubelet has it: $(NAME) is a variable that the pod has, and $$ a dollar.

    (kubernetes, third_party/forked/golang/expansion/expand.go.)
    """

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return environment.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Pods:
    """The pods of a job, by number; ``watch`` is the operator that starts them again."""

    def __init__(self, folder: Path, name: str = "job-x7k2p") -> None:
        self.manifest, self.name, self._port = read_manifest(folder), name, free_port()
        self.codes: list[tuple[int, int]] = []
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.succeeded: set[int] = set()

    @property
    def is_v2(self) -> bool:
        """Whether it is a TrainJob."""
        return bool(self.manifest["kind"] == "TrainJob")

    @property
    def container(self) -> Object:
        """What each pod runs."""
        if self.is_v2:
            found: Object = self.manifest["spec"]["trainer"]
        else:
            found = self.manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
        return found

    @property
    def count(self) -> int:
        """How many pods the job has."""
        spec = self.manifest["spec"]
        if self.is_v2:
            return int(spec["trainer"]["numNodes"])
        return sum(int(one["replicas"]) for one in spec["pytorchReplicaSpecs"].values())

    def environment(self, number: int) -> dict[str, str]:
        """What the operator gives a pod, and what the manifest's fields are in it."""
        shared = {key: os.environ[key] for key in _SHARED if key in os.environ}
        pet = {
            "PET_NNODES": str(self.count), "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(number),
            "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(self._port),
        }  # fmt: skip
        v1 = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._port), "RANK": str(number),
            "WORLD_SIZE": str(self.count), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        fields = {"status.podIP": "127.0.0.1"}
        given = {}
        for one in self.container["env"]:
            source = one["valueFrom"].get("fieldRef", {}).get("fieldPath", "")
            given[one["name"]] = self.name if source.startswith("metadata.labels") else fields.get(source, "a-secret")
        return {**shared, "HOME": "/", **given, **pet, **({} if self.is_v2 else v1)}

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Start a pod, again if it has ended."""
        environment = self.environment(number)
        words = [expand(word, environment) for word in (*self.container["command"], *self.container["args"])]
        self.running[number] = subprocess.Popen(
            words, env=environment, cwd="/", start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return self.running[number]

    def watch(self, limit_s: float) -> str:
        """What the operator makes of the pods until the job has ended: Succeeded or Failed (restartPolicy ExitCode)."""
        until = time.monotonic() + limit_s
        try:
            while time.monotonic() < until:
                for number, process in list(self.running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del self.running[number]
                    code = code if code >= 0 else RETRYABLE - code
                    self.codes.append((number, code))
                    if code == 0 and number == 0:
                        self._let_end()
                        return "Succeeded"
                    if 0 < code < RETRYABLE:
                        return "Failed"
                    if code:
                        self.start(number)
                time.sleep(0.05)
            raise AssertionError(f"the job did not end within {limit_s} s: {self.codes}")
        finally:
            self.delete()

    def _let_end(self) -> None:
        """Pods that are about to end, too; the operator deletes those that run on."""
        until = time.monotonic() + 20
        while any(one.poll() is None for one in self.running.values()) and time.monotonic() < until:
            time.sleep(0.05)
        self.codes += [(number, one.returncode) for number, one in self.running.items() if one.poll() is not None]

    def signal(self, number: int, what: signal.Signals) -> None:
        """Signal a pod's first process, as the kubelet does; KILL ends all that is in it."""
        if what != signal.SIGKILL:
            self.running[number].send_signal(what)
            return
        process = psutil.Process(self.running[number].pid)
        for one in [*process.children(recursive=True), process]:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue

    def delete(self) -> None:
        """TERM, and KILL for what stays: no process is left."""
        left = [psutil.Process(one.pid) for one in self.running.values() if one.poll() is None]
        left += [child for one in left for child in one.children(recursive=True)]
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=20)
        for one in alive:
            one.kill()
        psutil.wait_procs(alive, timeout=10)


def profile_of(folder: Path, api: str = "pytorchjob", more: str = "") -> str:
    """A profile whose pods find this Python and that folder."""
    return (
        f'[profiles.pods]\nscheduler = "kubernetes"\ngpu_flag = "none"\ngpus_per_node = 1\n'
        f'container = {{ image = "vllm/vllm-openai:v0.26.0", python = "{sys.executable}" }}\n'
        f'[profiles.pods.kubernetes]\napi = "{api}"\n{more}'
        f'[profiles.pods.kubernetes.volumes.shared]\nclaim = "shared"\nmount = "{folder}"\n'
    )
