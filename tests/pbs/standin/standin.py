#!/usr/bin/env python3
"""A stand-in for PBS's clients, for where none is: qsub, qstat, qdel, pbsnodes, pbsdsh and pbs_tmrsh are links to it.

It really runs scripts, on two 'hosts' that are processes of this machine with host names of their own (where the
kernel lets an ordinary user give them), and lies as OpenPBS 23.06 was seen to: jobs start in the home folder with a
bare environment, pbsdsh exits 0 whatever its task did, at TERM its clients leave before their tasks, finished jobs need
-x, impossible requests wait for ever, the log comes at the end unless -k d says otherwise.
``mom.py`` is what runs a job; both meet in a spool folder. Stand-ins with folders of different names run side by side:
their jobs' ids, from which the ranks' ports follow, have the folder's name for that of their server.
"""

from __future__ import annotations

import fcntl
import getopt
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

HOSTS = ("127.0.0.1", "127.0.0.2")  # names that resolve everywhere
CORES, GPUS = 8, 4
QUEUES = ("workq",)
RESOURCES = {"select", "place", "walltime", "ncpus", "ngpus", "mem", "cput", "nodes", "mpiprocs"}
NUMBERS = {"ncpus", "ngpus", "mpiprocs"}
SPOOL = Path(os.environ.get("STANDIN_SPOOL") or f"/tmp/pbs-standin-{os.getuid()}")
SERVER = SPOOL.name
Fields = dict[str, Any]


class Refused(Exception):  # noqa: N818 - a client's end
    """What a client says before it exits with that code."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


@contextmanager
def locked() -> Iterator[None]:
    """The only one to read and write the spool."""
    SPOOL.mkdir(exist_ok=True)
    with (SPOOL / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(job_id: str) -> Fields:
    """What is known of a job. Raises Refused for an unknown one."""
    try:
        fields: Fields = json.loads((SPOOL / f"{job_id}.json").read_text())
    except OSError:
        raise Refused(153, f"Unknown Job Id {job_id}") from None
    return fields


def write(job_id: str, **changes: Any) -> None:
    """Change a job's fields, or make it; None takes a field away."""
    path = SPOOL / f"{job_id}.json"
    fields = (json.loads(path.read_text()) if path.exists() else {}) | changes
    draft = SPOOL / f".{job_id}.{os.getpid()}"
    draft.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))
    draft.rename(path)


def split(line: str) -> list[str]:
    """The words of a #PBS line: quotes of both kinds, nothing special in them; a backslash outside (make_argv)."""
    words, word, rest = list[str](), None, iter(line)
    for c in rest:
        if c in "'\"":
            word = word or ""
            for inside in rest:
                if inside == c:
                    break
                word += inside
            else:
                raise Refused(1, "unmatched quote")
        elif c.isspace():
            words += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + (next(rest, "") if c == "\\" else c)
    return words + ([] if word is None else [word])


def options(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """qsub's options with their values, and what is left."""
    try:
        return getopt.getopt(words, "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:q:r:R:S:u:v:VW:XzP:")
    except getopt.GetoptError as error:
        raise Refused(2, f"invalid option -- '{error.opt}'\nusage: qsub [-a date_time] [-A account_string]") from None


def qsub(words: list[str]) -> None:
    """Take a script and start what runs it."""
    given, rest = options(words)
    script = Path(rest[0]).read_text()
    if "\r" in script:
        raise Refused(1, "script contains cr, lf")
    lines: list[tuple[str, str]] = []
    for line in script.splitlines():
        if line.startswith("#PBS "):
            found, left = options(split(line[5:]))
            if left:
                raise Refused(2, "directive error: " + line[5:])
            lines += found
        elif line.strip() and not line.startswith("#"):
            break
    # Of two the later counts, and the command line's; but of two resources the first.
    request = _request([*lines, *given])
    with locked():
        last = SPOOL / "last"
        number = int(last.read_text()) + 1 if last.exists() else 1
        last.write_text(str(number))
        job_id = f"{number}{'[]' if 'array' in request else ''}.{SERVER}"
        (SPOOL / f"{job_id}.SC").write_text(script)
        copied = {f"PBS_O_{name}": os.environ.get(name, "") for name in ("HOME", "PATH", "LANG", "LOGNAME", "SHELL")}
        own = {**copied, "PBS_O_WORKDIR": str(Path.cwd()), "PBS_O_QUEUE": "workq", "PBS_O_HOST": os.uname().nodename}
        write(job_id, **request, Variable_List=own)
    run_mom(job_id)
    print(job_id)


def run_mom(job_id: str) -> subprocess.Popen[bytes]:
    """Start what runs a job, and outlives the client."""
    root = str(Path(__file__).resolve().parents[3])
    with (SPOOL / "mom.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.pbs.standin.mom", job_id],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True, cwd="/",
            env={**os.environ, "STANDIN_SPOOL": str(SPOOL), "PYTHONPATH": root},
        )  # fmt: skip


def _request(given: list[tuple[str, str]]) -> Fields:  # noqa: C901 - a table of options
    """What the options ask for. Raises Refused with qsub's words."""
    request: Fields = {"job_state": "Q", "Job_Name": "STDIN", "Resource_List": {}}
    for option, value in given:
        if option == "-N" and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+.-]*", value):
            raise Refused(2, "illegal -N value")
        if option == "-o" and not (value.isascii() and value.isprintable()):
            raise Refused(2, "illegal -o value")
        if option == "-q" and value not in QUEUES:
            raise Refused(170, "Unknown queue")
        if option == "-l":
            name, _, text = value.partition("=")
            request["Resource_List"] = {name: _resource(name, text)} | request["Resource_List"]
        if option == "-J":
            first, last = (int(part) for part in value.split("-"))
            if last <= first:
                raise Refused(2, "illegal -J value")
            request["array"] = list(range(first, last + 1))
        if option == "-W" and value.startswith("umask="):
            request["umask"] = value.partition("=")[2]
        if option == "-k":
            request["Keep_Files"] = value
        if option == "-h":
            request |= {"job_state": "H", "Hold_Types": "u"}
        if option == "-a":
            at = time.mktime(time.strptime(value, "%Y%m%d%H%M"))
            request |= {"job_state": "W", "Execution_Time": time.ctime(at)}
        request |= {"-N": {"Job_Name": value}, "-o": {"Output_Path": value}}.get(option, {})
    asked = request["Resource_List"]
    if "select" in asked and {"ncpus", "ngpus", "mem"} & set(asked):
        raise Refused(185, '"-lresource=" cannot be used with "select" or "place", resource is: ncpus')
    return request


def _resource(name: str, text: str) -> str:
    if name not in RESOURCES:
        raise Refused(187, f"Unknown resource Resource_List.{name}")
    good = r"\d+(:\d\d){0,2}" if name in ("walltime", "cput") else r"\d+" if name in NUMBERS else ".+"
    if not re.fullmatch(good, text):
        raise Refused(166, f"Illegal attribute or resource value Resource_List.{name}")
    return text


def chunks(fields: Fields) -> tuple[int, int, int]:
    """Hosts, and cores and GPUs on each; chunks that are not scattered are packed on one, where they fit."""
    number, *parts = fields["Resource_List"].get("select", "1").split(":")
    asked = dict(part.split("=") for part in parts)
    count, cores, gpus = int(number), int(asked.get("ncpus", 1)), int(asked.get("ngpus", 0))
    is_scattered = fields["Resource_List"].get("place", "").startswith("scatter")
    if not is_scattered and count * cores <= CORES and count * gpus <= GPUS:
        return 1, count * cores, count * gpus
    return count, cores, gpus


def qstat(words: list[str]) -> None:
    """``qstat [-x] [-t] -f -F json ID``."""
    given, ids = getopt.getopt(words, "xtfF:")
    letters = {option for option, _ in given}
    answer: Fields = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
    code, words_ = 0, ""
    try:
        with locked():
            jobs = {ids[0]: read(ids[0])}
            if "-t" in letters:
                jobs |= {one: read(one) for task in jobs[ids[0]].get("array", []) if (one := _subjob(ids[0], task))}
        if jobs[ids[0]]["job_state"] == "F" and "-x" not in letters:
            raise Refused(35, f"{ids[0]} Job has finished, use -x or -H to obtain historical job information")
        answer["Jobs"] = jobs
    except Refused as refused:
        code, words_ = refused.code, str(refused)
    print(json.dumps(answer, indent=4))
    if code:
        raise Refused(code, words_)


def _subjob(job_id: str, task: int) -> str | None:
    name = job_id.replace("[]", f"[{task}]")
    return name if (SPOOL / f"{name}.json").exists() else None


def qdel(ids: list[str]) -> None:
    """Ask for a job's end; one that has not begun has ended at once."""
    with locked():
        state = read(ids[0])["job_state"]
        if state in ("F", "X"):
            raise Refused(35, f"Job has finished {ids[0]}")
        write(ids[0], delete=True)
        if state in ("Q", "H", "W"):
            write(ids[0], job_state="F")


def pbsdsh(words: list[str]) -> None:
    """Start a task at a line of the node file, and exit with 0 whatever it did."""
    if words[0] != "-n":
        raise Refused(1, "the stand-in knows pbsdsh -n INDEX only")
    hosts = (SPOOL / f"{os.environ['PBS_JOBID']}.nodes").read_text().split()
    _task(hosts[int(words[1])], words[3 if words[2] == "--" else 2 :], is_heard=True)


def pbs_tmrsh(words: list[str]) -> None:
    """Start a task on a host, and exit with its code."""
    sys.exit(_task(words[0], words[1:], is_heard=False))


def _task(host: str, argv: list[str], is_heard: bool) -> int:
    """Its exit code. At TERM no client waits for it, and only where ``is_heard`` does the task get it, too."""
    import signal

    folder = SPOOL / f"{os.environ['PBS_JOBID']}.tasks"
    name = f"{time.time_ns()}-{os.getpid()}"
    draft = folder / f".{name}"
    draft.write_text(json.dumps({"host": host, "argv": argv}))

    def tell(*_: object) -> NoReturn:
        (folder / f"{name}.term").touch()
        os._exit(1)

    if is_heard:
        signal.signal(signal.SIGTERM, tell)
    draft.rename(folder / f"{name}.task")
    while not (folder / f"{name}.exit").exists():
        time.sleep(0.1)
    return int((folder / f"{name}.exit").read_text())


def pbsnodes(words: list[str]) -> None:
    """Both hosts, always up."""
    for host in HOSTS:
        print(f"{host}\n     Mom = {host}\n     state = free\n     resources_available.ncpus = {CORES}\n")


def main() -> NoReturn:
    """Be the client of that name."""
    name = Path(sys.argv[0]).name
    if sys.argv[1:] == ["--version"]:
        print("pbs_version = 23.06.06 (stand-in)")
        sys.exit(0)
    try:
        globals()[name](sys.argv[1:])
    except Refused as refused:
        print(f"{name}: {refused}", file=sys.stderr)
        sys.exit(refused.code)
    sys.exit(0)


if __name__ == "__main__":
    main()
