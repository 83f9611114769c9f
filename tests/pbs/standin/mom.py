"""Runs one job of the stand-in: waits for hosts, starts its script and its tasks, and ends them all."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pbs.standin.standin import CORES, GPUS, HOSTS, SPOOL, chunks, locked, read, run_mom, write

_NEW_UTS, _NEW_USER = 0x04000000, 0x10000000
_GRACE_S = 8.0
# Seconds between two looks at the spool, or at a process; and for how long a job that has ended is E.
_LOOK_S, _ENDING_S = 0.1, 0.3


def on_host(name: str) -> Callable[[], None]:
    """For a child before its program runs: give it a host name of its own, where the kernel lets it."""
    libc = ctypes.CDLL(None)
    uid, gid = os.getuid(), os.getgid()

    def enter() -> None:
        # A job that submits itself again ignores these meanwhile. PBS's own moms are no children of it, this one is.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        if uid == 0 and libc.unshare(_NEW_UTS) == 0:
            socket.sethostname(name)
        elif libc.unshare(_NEW_USER | _NEW_UTS) == 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
            socket.sethostname(name)

    return enter


def members(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(stat.parent.name))
    return found


def kill(session: int, number: int) -> None:
    """Send a signal to all processes of a session; one that has begun its own is left alone, as by PBS."""
    for pid in members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Mom:
    """One job, or one task of an array, on its hosts."""

    def __init__(self, job_id: str, hosts: list[str]) -> None:
        self.id, self.hosts = job_id, hosts
        self.fields = read(job_id)
        self.folder = SPOOL / f"{job_id}.tasks"
        self.folder.mkdir()
        streams = "d" in self.fields.get("Keep_Files", "")
        path = Path(self.fields["Output_Path"]) if streams else SPOOL / f"{job_id}.OU"
        self.log = path.open("ab")
        self.sessions: list[int] = []
        self.tasks: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> int:
        """Run the script to its end, and return the job's Exit_status."""
        (SPOOL / f"{self.id}.nodes").write_text("".join(f"{host}\n" for host in self.hosts))
        name = self.id.partition("[")[0] + "[]." + self.id.partition(".")[2] if "[" in self.id else self.id
        script = self.start(self.hosts[0], ["/bin/bash", str(SPOOL / f"{name}.SC")], is_script=True)
        began, told_at, verdict = time.monotonic(), None, None
        limit = _seconds(self.fields["Resource_List"].get("walltime"))
        while script.poll() is None:
            self.serve()
            if verdict is None:
                over = time.monotonic() - began > limit
                verdict = -29 if over else 271 if read(self.id).get("delete") else None
            if verdict is not None and told_at is None:
                told_at = time.monotonic()
                for session in self.all_sessions():
                    kill(session, signal.SIGTERM)
            if told_at is not None and time.monotonic() - told_at > _GRACE_S:
                kill(script.pid, signal.SIGKILL)
            time.sleep(_LOOK_S)
        for session in self.all_sessions():
            kill(session, signal.SIGKILL)
        if self.log.name != self.fields["Output_Path"]:
            shutil.copyfile(self.log.name, self.fields["Output_Path"])
        code = script.returncode
        return verdict if verdict is not None else code if code >= 0 else 128 - code

    def all_sessions(self) -> list[int]:
        """Those that it has begun, and those that pbs_attach has told it of."""
        return [*self.sessions, *(int(path.name.partition("-")[2]) for path in self.folder.glob("attached-*"))]

    def serve(self) -> None:
        """Start the tasks that pbsdsh and pbs_tmrsh ask for, pass TERM on, and tell their ends."""
        for asked in sorted(self.folder.glob("*.task")):
            task = json.loads(asked.read_text())
            asked.unlink()
            self.tasks[asked.stem] = self.start(task["host"], task["argv"])
        for name, process in list(self.tasks.items()):
            if (self.folder / f"{name}.term").exists():
                (self.folder / f"{name}.term").unlink()
                kill(process.pid, signal.SIGTERM)
            if process.poll() is not None:
                code = process.returncode
                (self.folder / f".{name}").write_text(str(code if code >= 0 else 128 - code))
                (self.folder / f".{name}").rename(self.folder / f"{name}.exit")
                del self.tasks[name]

    def start(self, host: str, argv: list[str], is_script: bool = False) -> subprocess.Popen[bytes]:
        """A process on a host as PBS starts it: in the home folder, with next to nothing in its environment."""
        environment = self.environment(host)
        if host == self.hosts[0] and not is_script:
            del environment["PBS_NODEFILE"]
        if not Path(argv[0]).is_absolute() and not shutil.which(argv[0], path=environment["PATH"]):
            argv = ["/bin/sh", "-c", "exit 127"]
        process = subprocess.Popen(
            argv, cwd=os.environ["HOME"], env=environment, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, start_new_session=True, preexec_fn=on_host(host),
            umask=int(self.fields.get("umask", "077"), 8),
        )  # fmt: skip
        self.sessions.append(process.pid)
        return process

    def environment(self, host: str) -> dict[str, str]:
        """What was seen in a job's and in a task's environment."""
        _, cores, _ = chunks(self.fields)
        index = self.id.partition("[")[2].partition("]")[0]
        array = {"PBS_ARRAY_INDEX": index, "PBS_ARRAY_ID": self.id.replace(f"[{index}]", "[]")} if index else {}
        return {
            **self.fields["Variable_List"],
            **array,
            "PATH": "/bin:/usr/bin",
            "HOME": os.environ["HOME"],
            "PBS_JOBID": self.id,
            "PBS_JOBNAME": self.fields["Job_Name"],
            "PBS_NODEFILE": str(SPOOL / f"{self.id}.nodes"),
            "PBS_NODENUM": str(self.hosts.index(host)),
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "STANDIN_SPOOL": str(SPOOL),
            "STANDIN_HOST": host,
            "NCPUS": str(cores),
            "OMP_NUM_THREADS": str(cores),
            "TMPDIR": "/tmp",
        }


def _seconds(walltime: str | None) -> float:
    if walltime is None:
        return float("inf")
    total = 0
    for part in walltime.split(":"):
        total = total * 60 + int(part)
    return total


def wait_for_hosts(job_id: str) -> list[str] | None:
    """Wait in the queue, and take hosts; None where the job was deleted meanwhile."""
    while True:
        with locked():
            fields = read(job_id)
            if fields["job_state"] == "F":
                return None
            if fields["job_state"] == "W" and time.time() >= time.mktime(time.strptime(fields["Execution_Time"])):
                write(job_id, job_state="Q")
            if fields["job_state"] == "Q":
                hosts = _free_hosts(job_id, fields)
                if hosts:
                    write(job_id, job_state="R", hosts=hosts, comment="Job run")
                    return hosts
        time.sleep(_LOOK_S)


def _free_hosts(job_id: str, fields: dict[str, Any]) -> list[str]:
    number, cores, gpus = chunks(fields)
    if number > len(HOSTS) or cores > CORES or gpus > GPUS:
        write(job_id, comment="Can Never Run: Not enough total nodes available")
        return []
    free = {host: [CORES, GPUS] for host in HOSTS}
    for path in SPOOL.glob("*.json"):
        other = json.loads(path.read_text())
        if other["job_state"] in ("R", "E"):
            _, its_cores, its_gpus = chunks(other)
            for host in other.get("hosts", []):
                free[host][0] -= its_cores
                free[host][1] -= its_gpus
    able = [host for host, left in free.items() if left[0] >= cores and left[1] >= gpus]
    return able[:number] if len(able) >= number else []


def run_one(job_id: str, final: str) -> None:
    """A job, or a task of an array; ``final`` is the state after its end."""
    hosts = wait_for_hosts(job_id)
    if hosts is None:
        return
    code = Mom(job_id, hosts).run()
    with locked():
        write(job_id, job_state="E", Exit_status=code)
    time.sleep(_ENDING_S)
    with locked():
        write(job_id, job_state=final)


def run_array(job_id: str, tasks: list[int]) -> None:
    """Every task by a process of its own."""
    while (fields := read(job_id))["job_state"] in ("H", "W"):
        time.sleep(_LOOK_S)
    if fields["job_state"] == "F":
        return
    names = [job_id.replace("[]", f"[{task}]") for task in tasks]
    common = {key: fields[key] for key in ("Job_Name", "Resource_List", "Output_Path", "Variable_List")}
    with locked():
        for name in names:
            write(name, job_state="Q", **common)
        write(job_id, job_state="B", comment="Job Array Began")
    running = [run_mom(name) for name in names]
    while sum(process.poll() is None for process in running):
        with locked():
            if read(job_id).get("delete"):
                for name in names:
                    state = read(name)["job_state"]
                    write(name, delete=True, job_state="F" if state == "Q" else state)
        time.sleep(_LOOK_S)
    codes = [read(name).get("Exit_status") for name in names]
    with locked():
        write(job_id, job_state="F", Exit_status=int(any(codes)))


if __name__ == "__main__":
    tasks = read(sys.argv[1]).get("array")
    run_array(sys.argv[1], tasks) if tasks else run_one(sys.argv[1], "X" if "[" in sys.argv[1] else "F")
