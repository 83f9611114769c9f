"""`vllm-hpc report`: one HTML page of a job."""
