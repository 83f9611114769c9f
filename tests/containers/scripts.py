"""Profiles and golden scripts of each container runtime, for tests/schedulers/test_scripts.py."""

from __future__ import annotations

from typing import Any

PROFILES = """
[profiles.polaris-apptainer]
scheduler = "pbs"
gpu_request = "queue"
gpus_per_node = 4
launcher = "mpiexec"
setup = ["module load apptainer"]
container = { runtime = "apptainer", image = "/eagle/images/vllm.sif", bundle = "/eagle/images/bundle-3.12" }

[profiles.lumi]
gpu = "mi250x"
gpus_per_node = 8
env = { NCCL_SOCKET_IFNAME = "hsn" }
[profiles.lumi.container]
runtime = "singularity"
image = "/appl/local/laifs/vllm.sif"
binds = ["/var/spool/slurmd", "${SCRATCH:-/scratch}/cache:/cache", "/opt/cray:/opt/cray:ro"]
python = "/opt/venv/bin/python"

[profiles.podman]
gpus_per_node = 8
gpu = "h200"
container = { runtime = "podman", image = "docker.io/vllm/vllm-openai:v0.26.0", bundle = "/sw/bundle" }

[profiles.perlmutter]
gpus_per_node = 4
gpu = "a100-80"
container = { runtime = "podman-hpc", image = "vllm/vllm-openai:v0.26.0", options = ["--nccl"], bundle = "/sw/bundle" }

[profiles.perlmutter-shifter]
gpus_per_node = 4
gpu = "a100-80"
launcher = "srun"
directives = ["--image=docker:vllm/vllm-openai:v0.26.0"]
[profiles.perlmutter-shifter.container]
runtime = "shifter"
image = "docker:vllm/vllm-openai:v0.26.0"
options = ["--module=gpu,nccl-plugin"]
bundle = "/sw/bundle"

[profiles.charliecloud]
gpus_per_node = 4
wrapper = ["numactl", "--localalloc"]
container = { runtime = "charliecloud", image = "/sw/images/vllm", bundle = "/sw/bundle", options = ["--write"] }

[profiles.pyxis]
gpus_per_node = 8
container = { runtime = "pyxis", image = "/sw/images/vllm.sqsh", binds = ["/sw:/sw:ro"], bundle = "/sw/bundle" }
"""
SCRIPTS: dict[str, dict[str, Any]] = {
    "container-apptainer.pbs": {"nodes": 2, "tp": 8, "profile": "polaris-apptainer", "time": "1:00:00"},
    "container-singularity.sbatch": {"nodes": 2, "tp": 16, "profile": "lumi", "pass_env": ["SITE_LOGIN"]},
    "container-podman.sbatch": {"nodes": 2, "tp": 16, "profile": "podman", "env": {"NCCL_DEBUG": "INFO"}},
    "container-podman-hpc.sbatch": {"nodes": 2, "tp": 8, "profile": "perlmutter"},
    "container-shifter.sbatch": {"nodes": 2, "tp": 8, "profile": "perlmutter-shifter"},
    "container-charliecloud.sbatch": {"nodes": 2, "tp": 8, "profile": "charliecloud"},
    "container-pyxis.sbatch": {"nodes": 2, "tp": 16, "profile": "pyxis"},
    "container-local.sh": {"tp": 2, "container": "/sw/vllm.sif"},
    "container-pbsdsh.pbs": {"nodes": 2, "tp": 2, "container": "/sw/my images/$vllm.sif"},
}  # fmt: skip
for _file, _options in SCRIPTS.items():
    _options["scheduler"] = {"pbs": "pbs", "sbatch": "slurm", "sh": "local"}[_file.rsplit(".")[-1]]
