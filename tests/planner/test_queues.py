"""Queue tables: a job gets the queue that it asks for, or the first that takes it; else it hears which one would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.jobs.submit import Prepared, prepare
from vllm_hpc.spec.errors import RefusedError

pytestmark = pytest.mark.admins

PROFILE = """[profiles.polaris]
scheduler = "slurm"
gpu = "a100-40"
gpus_per_node = 4
cpus_per_node = 32
mem_per_node = "512G"
directives = ["--constraint=a"]
[profiles.polaris.queues.debug]
max_nodes = 2
max_time = "1:00:00"
[profiles.polaris.queues.prod]
min_nodes = 10
max_nodes = 496
max_time = "24:00:00"
directives = ["--reservation=b"]
qos = "normal"
[profiles.polaris.queues.preemptable]
max_nodes = 10
max_time = "72:00:00"
by_request = true
[profiles.polaris.queues.big]
partition = "gpubig"
gpus_per_node = 8
cpus_per_node = 96
mem_per_node = "2T"
max_nodes = 1
gpu = "h200"
[profiles.polaris.queues.no-name]
partition = ""
min_nodes = 1000
whole_nodes = true
mem = "0"
"""


def job(desk: Path, **options: Any) -> Prepared:
    (desk / "vllm-hpc.toml").write_text(PROFILE)
    return prepare(rehearse=True, profile="polaris", **options)


def lines(prepared: Prepared) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in prepared.script.splitlines() if line.startswith("#SBATCH")]


def test_the_first_that_takes_the_job(desk: Path) -> None:
    small = job(desk, nodes=2)
    assert "partition=debug" in lines(small)
    assert "queue debug (1 to 2 nodes, at most 1:00:00), the first that takes the job" in small.plan.reasons
    large = lines(job(desk, nodes=12, time="3:00:00"))
    assert {"partition=prod", "qos=normal", "constraint=a", "reservation=b"} <= set(large)


def test_its_values_take_the_place_of_the_profiles(desk: Path) -> None:
    said = lines(job(desk, nodes=1, gpus_per_node=8))
    assert {"partition=gpubig", "gpus-per-node=8", "cpus-per-task=96", "mem=2097152M"} <= set(said)
    assert "partition=gpubig" in lines(job(desk, nodes=1, gpus_per_node=2, gpu="h200"))
    assert {"partition=gpubig", "cpus-per-task=12"} <= set(lines(job(desk, nodes=1, gpus_per_node=1, partition="big")))


def test_a_part_of_a_node_is_asked_for_its_part(desk: Path) -> None:
    assert {"gpus-per-node=1", "cpus-per-task=8", "mem=131072M"} <= set(lines(job(desk, nodes=1, gpus_per_node=1)))


def test_a_queue_without_a_name_is_not_named(desk: Path) -> None:
    said = lines(job(desk, nodes=1200, gpus_per_node=1))
    assert not [line for line in said if line.startswith("partition")]
    assert {"gpus-per-node=4", "cpus-per-task=32", "mem=0"} <= set(said), "billed whole"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes": 4, "partition": "prod"},
         r"^queue prod takes 10 to 496 nodes, not 4: use --queue preemptable \(1 to 10 nodes, at most 72:00:00\)$"),
        ({"nodes": 2, "time": "2:00:00", "partition": "debug"},
         r"queue debug takes jobs of at most 1:00:00, not 2:00:00: use --queue preemptable"),
        ({"nodes": 4},
         r"^queue debug takes 1 to 2 nodes, not 4; .*: use --queue preemptable \(1 to 10 nodes, at most 72:00:00\)$"),
        ({"nodes": 600},
         r"^no queue of profile 'polaris' takes the job: queue debug takes 1 to 2 nodes, not 600; .*change --nodes$"),
        ({"nodes": 12, "time": "48:00:00"}, r"no queue .* change --nodes or --time$"),
        ({"nodes": 1, "gpu": "a100-40", "partition": "big"}, r"^queue big has h200, not a100-40: use --queue debug "),
    ],
)  # fmt: skip
def test_what_no_queue_takes_is_refused_with_the_one_that_would(desk: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        job(desk, **options)


def test_a_queue_without_a_table_is_taken_as_it_is(desk: Path) -> None:
    prepared = job(desk, nodes=4, partition="secret")
    assert "partition=secret" in lines(prepared)
    said = "queue 'secret' has no table in the profile: no limits are checked, no values are taken from it"
    assert said in prepared.plan.reasons and said in prepared.notes
    assert any("(did you mean 'debug'?)" in note for note in job(desk, nodes=4, partition="dbug").notes)


def test_the_profiles_own_queue_comes_first_where_it_fits(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(
        PROFILE.replace("gpus_per_node = 4", 'gpus_per_node = 4\npartition = "preemptable"', 1)
    )
    assert "partition=preemptable" in lines(prepare(rehearse=True, profile="polaris", nodes=2))
    assert "partition=prod" in lines(prepare(rehearse=True, profile="polaris", nodes=20))


def test_a_queue_that_cannot_ask_for_the_job_is_passed_over(desk: Path) -> None:
    """Of two grammars of PBS, one cannot say where part nodes lie."""
    (desk / "vllm-hpc.toml").write_text("""[profiles.p]
scheduler = "pbs"
gpus_per_node = 4
[profiles.p.queues.a]
gpu_request = "totals"
[profiles.p.queues.b]
""")
    script = prepare(rehearse=True, profile="p", nodes=2, gpus_per_node=2, tp=4).script
    assert "#PBS -q b" in script.splitlines()


def test_a_tables_memory_takes_the_place_of_the_profiles(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text("""[profiles.p]
scheduler = "slurm"
gpus_per_node = 4
mem_per_gpu = "60G"
cpus_per_rank = 3
[profiles.p.queues.a]
mem_per_node = "2000G"
cpus_per_node = 64
""")
    said = lines(prepare(rehearse=True, profile="p", nodes=1, gpus_per_node=2))
    assert {"mem=1024000M", "cpus-per-task=32"} <= set(said)


@pytest.mark.parametrize(
    ("keys", "options", "said"),
    [
        ('time = "12:00:00"\n', {}, "change --time$"),
        ("", {"gpu": "b200"}, "queue a has a100-40, not b200: change --gpu$"),
        (
            'required = ["cpus_per_node"]\n',
            {"time": "1"},
            r"needs cpus_per_node: write cpus_per_node in \[profiles\.p\]",
        ),
    ],
)
def test_a_refusal_says_what_to_change(desk: Path, keys: str, options: dict[str, Any], said: str) -> None:
    (desk / "vllm-hpc.toml").write_text(
        f'[profiles.p]\nscheduler = "slurm"\n{keys}[profiles.p.queues.a]\nmax_time = "0:30:00"\ngpu = "a100-40"\n'
    )
    with pytest.raises(RefusedError, match=said):
        prepare(rehearse=True, profile="p", nodes=1, **options)


def test_the_memory_of_a_tables_gpu_counts(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text(
        '[profiles.p]\nscheduler = "slurm"\ngpu = "a100-40"\n[profiles.p.queues.q]\ngpu_memory_gib = 24\n'
    )
    device = prepare(rehearse=True, profile="p", nodes=1).job.device
    assert device is not None and device.gpu is not None and device.gpu.memory_gib == 24
