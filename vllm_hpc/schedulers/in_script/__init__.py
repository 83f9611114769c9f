"""The commands that a job's script calls, through ``vllm_hpc.in_job``."""
