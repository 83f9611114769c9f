#!/usr/bin/env python3
"""A stand-in for PBS's clients, for where none is: qsub, qstat, qdel and six others beside this file are links to it.

It really runs scripts, on two 'hosts' that are processes of this machine with host names of their own (where the
kernel lets an ordinary user give them), and lies as OpenPBS 23.06 was seen to: jobs start in the home folder with a
bare environment, pbsdsh exits 0 whatever its task did, at TERM its clients leave before their tasks, finished jobs need
-x, impossible requests wait for ever, the log comes at the end unless -k d says otherwise, and of a process that has
begun a session of its own it knows nothing, unless pbs_attach tells it.

Files in the spool folder make it another server, each as OpenPBS 23.06.06 was recorded: ``no-history`` (a fresh one
keeps none), ``untrusted`` (nor does it take jobs from compute nodes: flatuid is not set), ``down`` (after qterm).
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

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # as a client it is a program by itself
from tests.pbs.standin.request import Refused, options, request_of, split

HOSTS = ("127.0.0.1", "127.0.0.2")  # names that resolve everywhere
CORES, GPUS = 8, 4
SPOOL = Path(os.environ.get("STANDIN_SPOOL") or f"/tmp/pbs-standin-{os.getuid()}")
SERVER = SPOOL.name
Fields = dict[str, Any]


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


def qsub(words: list[str]) -> None:
    """Take a script and start what runs it."""
    check_trust("Bad UID for job execution", 175)
    given, rest = options(words)
    script = Path(rest[0]).read_text()
    if "\r" in script:
        raise Refused(1, "script contains cr, lf")
    lines: list[tuple[str, str]] = []
    for line in script.splitlines():
        if line.startswith("#PBS "):
            try:
                found, left = options(split(line[5:]))
            except Refused as refused:
                raise Refused(1, f"{str(refused).splitlines()[0]}\nqsub: directive error: {line[5:]}") from None
            if left:
                raise Refused(1, "directive error: " + line[5:])
            lines += found
        elif line.strip() and not line.startswith("#"):
            break
    # Of two the later counts, and the command line's; but of two resources the first.
    request = request_of([*lines, *given])
    with locked():
        last = SPOOL / "last"
        number = int(last.read_text()) + 1 if last.exists() else 1
        last.write_text(str(number))
        job_id = f"{number}{'[]' if 'array' in request else ''}.{SERVER}"
        (SPOOL / f"{job_id}.SC").write_text(script)
        copied = {f"PBS_O_{name}": os.environ.get(name, "") for name in ("HOME", "PATH", "LANG", "LOGNAME", "SHELL")}
        own = {**copied, "PBS_O_WORKDIR": str(Path.cwd()), "PBS_O_QUEUE": "workq", "PBS_O_HOST": os.uname().nodename}
        write(job_id, **{**request, "given": None}, Variable_List={**own, **request.get("given", {})})
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
    """``qstat [-x] [-t] -f [-F json] ID...``, and ``qstat -Q|-B -f -F json``."""
    given, ids = getopt.getopt(words, "xtfF:QB")
    letters = {option for option, _ in given}
    if letters & {"-Q", "-B"}:
        workq = {"queue_type": "Execution", "total_jobs": 0, "enabled": "True", "started": "True"}
        server = {"server_state": "Active", "default_queue": "workq", "pbs_version": "23.06.06"}
        tables = {"Queue": {"workq": workq}} if "-Q" in letters else {"Server": {SERVER: server}}
        print(json.dumps({**header(), **tables}, indent=4))
        return
    found: Fields = {}
    refused: Refused | None = None
    if "-x" in letters and is_set("no-history"):
        print(f"qstat: PBS is not configured to maintain job history {ids[0]}", file=sys.stderr)
        ids = []
    for job_id in ids:
        try:
            found |= _described(job_id, letters)
        except Refused as error:
            refused = error  # the last one decides the exit code
    if "-F" in letters:
        print(json.dumps({**header(), **({"Jobs": found} if found else {})}, indent=4))
    else:
        for name, fields in found.items():
            print("\n".join([f"Job Id: {name}", *_plain_lines(fields), ""]))
    if refused:
        raise refused


def header() -> Fields:
    """What stands in every JSON."""
    return {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}


def _described(job_id: str, letters: set[str]) -> Fields:
    """A job, and with -t its tasks. Raises Refused for one that is not known (any more)."""
    with locked():
        jobs = {job_id: read(job_id)}
        if "-t" in letters:
            jobs |= {one: read(one) for task in jobs[job_id].get("array", []) if (one := _subjob(job_id, task))}
    if jobs[job_id]["job_state"] == "F" and is_set("no-history"):
        raise Refused(153, f"Unknown Job Id {job_id}")
    if jobs[job_id]["job_state"] == "F" and "-x" not in letters:
        raise Refused(35, f"{job_id} Job has finished, use -x or -H to obtain historical job information")
    return {name: {**one, "Output_Path": f"{SERVER}:{one.get('Output_Path', '')}"} for name, one in jobs.items()}


def _plain_lines(fields: Fields) -> list[str]:
    lines: list[str] = []
    for key, value in fields.items():
        if key == "Variable_List":
            value = ",\n\t".join(f"{name}={text}" for name, text in value.items())
        more = value.items() if isinstance(value, dict) else ()
        lines += [f"    {key}.{name} = {text}" for name, text in more] or [f"    {key} = {value}"]
    return lines


def _subjob(job_id: str, task: int) -> str | None:
    name = job_id.replace("[]", f"[{task}]")
    return name if (SPOOL / f"{name}.json").exists() else None


def qselect(words: list[str]) -> None:
    """The ids of jobs that live, of all or those of one name; all are of one user."""
    given, _ = getopt.getopt(words, "N:u:")
    with locked():
        found = {path.stem: json.loads(path.read_text()) for path in sorted(SPOOL.glob("*.json"))}
    for name, fields in found.items():
        is_one = all(fields["Job_Name"] == value for option, value in given if option == "-N")
        if is_one and fields["job_state"] not in ("F", "X") and not re.search(r"\[\d", name):
            print(name)


def qalter(words: list[str]) -> None:
    """``qalter -N NAME ID``."""
    given, ids = getopt.getopt(words, "N:")
    check_trust(f"Unauthorized Request  {ids[0]}", 159)
    with locked():
        read(ids[0])
        write(ids[0], Job_Name=dict(given)["-N"])


def qdel(words: list[str]) -> None:
    """``qdel ID``: ask for a job's end; one that has not begun has ended at once."""
    _, ids = getopt.getopt(words, "W:x")
    with locked():
        state = read(ids[0])["job_state"]
        if state in ("F", "X"):
            unknown = Refused(153, f"Unknown Job Id {ids[0]}")
            raise unknown if is_set("no-history") else Refused(35, f"Job has finished {ids[0]}")
        write(ids[0], delete=True)
        if state in ("Q", "H", "W"):
            write(ids[0], job_state="F")


def pbs_attach(words: list[str]) -> None:
    """``pbs_attach -j ID -p PID``: the session of that process is the job's from now on."""
    given = dict(getopt.getopt(words, "j:p:")[0])
    folder = SPOOL / f"{given['-j']}.tasks"
    if not folder.exists():
        raise Refused(1, "tm_attach: no matching job found (17006)")
    try:
        session = os.getsid(int(given["-p"]))
    except ProcessLookupError:
        raise Refused(1, "tm_attach: process does not exist (17011)") from None
    (folder / f"attached-{session}").touch()


def is_set(name: str) -> bool:
    """Whether the server is such a one."""
    return (SPOOL / name).exists()


def check_trust(words: str, code: int) -> None:
    """Refuse what a server does for its users only on hosts that it trusts. Raises Refused."""
    if is_set("untrusted") and "STANDIN_HOST" in os.environ:
        raise Refused(code, words)


def refuse_connection(name: str) -> NoReturn:
    """As a client that finds no server."""
    if name == "qstat" and "json" in sys.argv:
        print(json.dumps(header(), indent=4))
    words = f"{name}: cannot connect to server {SERVER} (errno=15010)"
    print("Connection refused", file=sys.stderr)
    print(f"Couldn't connect to cluster: {SERVER}" if name == "qdel" else words, file=sys.stderr)
    sys.exit(255 if name in ("qstat", "pbsnodes") else 162)


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
    """Both hosts, always up; of their memory nothing is told."""
    if "json" in words:
        has = {"ncpus": CORES, "ngpus": GPUS}
        nodes = {host: {"state": "free", "resources_available": {"host": host, **has}} for host in HOSTS}
        print(json.dumps({**header(), "nodes": nodes}, indent=4))
        return
    for host in HOSTS:
        print(f"{host}\n     Mom = {host}\n     state = free\n     resources_available.ncpus = {CORES}\n")


def main() -> NoReturn:
    """Be the client of that name."""
    name = Path(sys.argv[0]).name
    if sys.argv[1:] == ["--version"]:
        print("pbs_version = 23.06.06 (stand-in)")
        sys.exit(0)
    if is_set("down") and name not in ("pbsdsh", "pbs_tmrsh", "pbs_attach"):  # these ask the host's own mom
        refuse_connection(name)
    try:
        globals()[name](sys.argv[1:])
    except Refused as refused:
        print(f"{name}: {refused}", file=sys.stderr)
        sys.exit(refused.code)
    sys.exit(0)


if __name__ == "__main__":
    main()
