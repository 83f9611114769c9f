"""Kubernetes: a job is a PyTorchJob or a TrainJob of Kubeflow, whose pods are the job's nodes.

``vllm-hpc`` renders manifest.yaml and creates it with kubectl (cluster.py); a job's id is NAMESPACE/NAME.
"""

from __future__ import annotations

from vllm_hpc.schedulers.kubernetes.cluster import (
    ID,
    SUBMITTED,
    cancel,
    environment,
    find_job,
    query,
    query_all,
    read_log,
    remember,
    submit_argv,
)
from vllm_hpc.schedulers.kubernetes.kubectl import check_reach
from vllm_hpc.schedulers.kubernetes.pods import describe_pods
from vllm_hpc.schedulers.kubernetes.refusals import explain, is_lasting
from vllm_hpc.schedulers.kubernetes.request import check_folder, check_request
from vllm_hpc.schedulers.scheduler import Scheduler

SCHEDULER = Scheduler(
    name="kubernetes",
    template="kubernetes.yaml.j2",
    script="manifest.yaml",
    id_pattern=SUBMITTED,
    id_alone=ID,
    submit_argv=submit_argv,
    cancel=cancel,
    query=query,
    query_all=query_all,
    environment=environment,
    remember=remember,
    explain=explain,
    find_job=find_job,
    check_reach=check_reach,
    read_log=read_log,
    is_lasting=is_lasting,
    # kubectl answered, in the cluster to which it was submitted: query says "unknown" of any other.
    forgotten_has_ended=lambda job_id: True,
    check_request=check_request,
    check_folder=check_folder,
    passes_environment=False,
    describe_pods=describe_pods,
)
