"""`vllm-hpc doctor`: what would go wrong with a job, found before GPU hours are spent.

``login`` looks at the machine that submits; ``nodes`` submits a short job whose nodes and ranks write down what they
find (vllm_hpc/engine/doctor), and ``judge_nodes`` and ``judge_ranks`` say what that means.
"""
