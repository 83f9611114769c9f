"""Another user of the machine wants to read, or move, what the ranks of a running job tell each other."""

from __future__ import annotations

import json
import sys

import pytest

from tests.hostile.accounts import Account
from tests.hostile.conftest import Neighbours
from tests.hostile.test_two_users import SLOW, let_group_write, submit
from tests.marks import needs_torch
from tests.real_jobs import wait_for

pytestmark = [pytest.mark.trust, needs_torch]

ROWS = 40
# Rows are claimed one by one, over some seconds.
SLOWLY = ("--engine", "max_num_seqs=2", "--max-tokens", "8", "--rehearse-set")
# Finds all ports on which the victim listens, as every user can, and asks each of them: as a client of torch's store,
# for which it sets, moves and deletes all keys; and without a protocol, for the job's own store without its secret.
ATTACK = """
import json, os, socket, sys, time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Thread
from torch.distributed import TCPStore
print("ready", flush=True)
sys.stdin.readline()
fields = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
ports = {int(one[1].split(":")[1], 16) for one in fields if one[3] == "0A" and one[7] == sys.argv[1]}
guessed = ["vllm-hpc/store", "claimed/0", "claimed/1", "done", "left", "drain-asked", "torchelastic/assigned_ranks/0"]

def as_torch(port):
    with suppress(Exception):
        store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=2), wait_for_workers=False)
        listed = store.list_keys() if hasattr(store, "list_keys") else []
        for key in {*listed, *guessed, *("/" + one for one in guessed)}:
            with suppress(Exception):
                store.set(key, "1000000")
                store.add(key, 1)
                store.delete_key(key)
                moved[port] += 1

def raw(port):
    for call in (["add", ["claimed/0"], [], 1000000], ["read", ["here/0"]], ["count"]):
        with socket.create_connection(("127.0.0.1", port), 5) as connection, suppress(OSError):
            connection.settimeout(1)
            connection.sendall(json.dumps(call).encode() + b"\\n")
            while more := connection.recv(4096):
                said[port] += more.decode("latin-1")

# torch's client waits for ever for who does not answer it, as gloo.
moved, said = dict.fromkeys(ports, 0), dict.fromkeys(ports, "")
threads = [Thread(target=attack, args=(port,), daemon=True) for port in ports for attack in (as_torch, raw)]
for thread in threads:
    thread.start()
until = time.monotonic() + 4
for thread in threads:
    thread.join(max(0, until - time.monotonic()))
print(json.dumps([moved, said]), flush=True)
os._exit(0)
"""
# A store of torch's, in another process of the victim's: what the attack does where nobody is asked who they are.
PLAIN = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
store.set("value", "kept")
print(store.port, flush=True)
sys.stdin.readline()
print(store.check(["value"]), flush=True)
"""


@pytest.mark.ranks
@pytest.mark.parametrize(("layout", "pace"), [("--dp", 16), ("--tp", 32)])
def test_who_connects_to_all_ports_of_a_job_reads_and_moves_nothing(
    neighbours: Neighbours, layout: str, pace: int
) -> None:
    victim, attacker, project = neighbours
    (victim.home / "rows.jsonl").write_text("".join(f'{{"prompt": "row {n}"}}\n' for n in range(ROWS)))
    argv = [sys.executable, "-c", ATTACK, str(victim.uid)]
    with attacker.start(argv, project) as attack, victim.start([sys.executable, "-c", PLAIN], victim.home) as plain:
        assert attack.stdin and attack.stdout and plain.stdout
        assert attack.stdout.readline() == "ready\n", attack.communicate()
        unguarded = plain.stdout.readline().strip()
        done = victim.vllm_hpc(
            "submit", "--rehearse", "--scheduler", "local", "--gpus-per-node", "2", layout, "2", *SLOWLY,
            f"tokens_per_s={pace}", "--input", victim.home / "rows.jsonl", "--job-dir", project, "--name", "shared",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        job = project / "shared"
        wait_for((job / "state" / "claimed-0.1.jsonl").exists, "the first chunks")
        listening = listeners(victim, int(unguarded))
        told, wrong = attack.communicate("go\n", timeout=60)
        assert attack.returncode == 0, wrong
        moved, said = json.loads(told)
        assert plain.communicate("\n", timeout=60)[0] == "False\n", "the attack is none"
    assert not (job / "state" / "exit-1.json").exists(), "it came too late"
    assert {one.split()[0] for one in listening} == {"127.0.0.1"}, "on one node, nothing but the loopback device"
    assert {one.split()[1] for one in listening} == set(moved) - {unguarded}, "it has found them all"
    assert [port for port, keys in moved.items() if keys] == [unguarded]
    stores = [one for port, one in said.items() if port != unguarded and one]
    assert [one.count("refused") for one in stores] == [3], (
        "the job's store, alone, speaks: it sends numbers, and refuses"
    )
    wait_for((job / "state" / "exit-1.json").exists, "end of the job")
    status = json.loads(victim.vllm_hpc("status", job, "--json").stdout)
    assert (status["state"], status["attempts"], status["rows"]["done"]) == ("COMPLETED", 1, ROWS)
    rows = [json.loads(line)["index"] for file in (job / "shards").iterdir() for line in file.read_text().splitlines()]
    assert sorted(rows) == list(range(ROWS))


def listeners(user: Account, but: int) -> set[str]:
    """The addresses and ports on which the user's processes listen, without that port."""
    found = set()
    for process in user.processes():
        for one in process.net_connections("tcp"):
            if one.status == "LISTEN" and one.laddr.port != but:
                found.add(f"{one.laddr.ip} {one.laddr.port}")
    return found


@pytest.mark.ranks
def test_a_planted_secret_is_not_used(neighbours: Neighbours) -> None:
    """In a project's folder, where the group may replace the file: the job ends, and says why."""
    victim, attacker, project = neighbours
    job = submit(neighbours, *SLOW)
    let_group_write(job)
    secret = job / "state" / "secret"
    wait_for(secret.exists, "the secret")
    assert attacker.run(["cat", secret], project).returncode != 0
    victim.vllm_hpc("cancel", job)
    attacker.plant(secret, "x" * 32)
    assert victim.vllm_hpc("resume", job, "--wait").returncode == 1
    status = json.loads(victim.vllm_hpc("status", job, "--json").stdout)
    assert status["state"] == "FAILED"
    assert f"'{secret}' belongs to another user" in status["reason"]
