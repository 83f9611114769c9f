"""Kubeflow's operator starts a pod for each node, and each pod's script starts torchrun."""

from __future__ import annotations

from vllm_hpc.schedulers.launchers import Launcher

KUBEFLOW = Launcher(
    name="kubeflow", schedulers=("kubernetes",), program="torchrun", words=lambda job: (), node="$RANK"
)
