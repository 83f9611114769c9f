"""What a job's script calls, through ``vllm_hpc.in_job``."""
