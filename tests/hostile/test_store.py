"""Another user of the machine moves whatever the ranks of a running job count together."""

from __future__ import annotations

import json
import sys

import pytest

from tests.hostile.conftest import Neighbours
from tests.hostile.test_two_users import SLOW, let_group_write, submit
from tests.marks import needs_torch
from tests.real_jobs import wait_for

pytestmark = [pytest.mark.trust, needs_torch]

ROWS = 40
# Rows are claimed one by one, over some seconds.
SLOWLY = ("--engine", "max_num_seqs=2", "--rehearse-set", "tokens_per_s=20", "--max-tokens", "8")
# Finds torchrun's port as every user can (ps), and moves all keys of the store there: those that it lists, and those
# that the source tells of. Then it asks the job's own store, whose address it has found there, too.
ATTACK = """
import json, socket, sys
from contextlib import suppress
from datetime import timedelta
import psutil
from torch.distributed import TCPStore
print("ready", flush=True)
sys.stdin.readline()
lines = [one.info["cmdline"] or [] for one in psutil.process_iter(["uids", "cmdline"])
         if one.info["uids"].real == int(sys.argv[1])]
port = next(int(word.split("=")[1]) for line in lines for word in line if word.startswith("--master-port="))
store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=5))
listed = set(store.list_keys()) if hasattr(store, "list_keys") else set()
own = store.get("vllm-hpc/store").decode() if store.check(["vllm-hpc/store"]) else ""
guessed = {"/" + f"vllm-hpc/{name}" for name in ("claimed/0", "claimed/1", "done", "left", "drain-asked")}
moved = 0
for key in listed | guessed | {key[1:] for key in guessed}:
    try:
        store.add(key, 1_000_000)
    except Exception:
        with suppress(Exception):
            store.set(key, "1000000")
    moved += 1
said = ""
if own:
    address = own.split()
    for key in ("claimed/0", "claimed/1", "all-done", "drain-asked"):
        with socket.create_connection((address[0], int(address[1])), 5) as connection:
            connection.sendall(json.dumps(["add", [key], "", 1_000_000]).encode() + b"\\n")
            while more := connection.recv(200):
                said += more.decode()
print(json.dumps([moved, said]), flush=True)
"""


@pytest.mark.ranks
def test_counters_that_another_user_moves_lose_no_row(neighbours: Neighbours) -> None:
    victim, attacker, project = neighbours
    (victim.home / "rows.jsonl").write_text("".join(f'{{"prompt": "row {n}"}}\n' for n in range(ROWS)))
    argv = [sys.executable, "-c", ATTACK, str(victim.uid)]
    with attacker.start(argv, project) as attack:
        assert attack.stdin and attack.stdout
        assert attack.stdout.readline() == "ready\n", attack.communicate()
        done = victim.vllm_hpc(
            "submit", "--rehearse", "--scheduler", "local", "--gpus-per-node", "2", "--dp", "2", *SLOWLY,
            "--input", victim.home / "rows.jsonl", "--job-dir", project, "--name", "shared",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        job = project / "shared"
        wait_for(lambda: all((job / "state" / f"claimed-{n}.1.jsonl").exists() for n in (0, 1)), "the first chunks")
        moved, said = json.loads(attack.communicate("go\n", timeout=60)[0])
    claimed = sum(len((job / "state" / f"claimed-{n}.1.jsonl").read_text().splitlines()) for n in (0, 1))
    assert claimed < ROWS, "it came in time"
    assert moved > 4
    wait_for((job / "state" / "exit-1.json").exists, "end of the job")
    status = json.loads(victim.vllm_hpc("status", job, "--json").stdout)
    assert (status["state"], status["attempts"], status["rows"]["done"]) == ("COMPLETED", 1, ROWS)
    rows = [json.loads(line)["index"] for file in (job / "shards").iterdir() for line in file.read_text().splitlines()]
    assert sorted(rows) == list(range(ROWS))
    assert said.count("refused") == 4


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
