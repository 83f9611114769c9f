"""Runs the model in steps of a lane that schedule no token, so that the other lanes' experts do not wait for it.

In the last step before its rows end, an engine with asynchronous scheduling has nothing to schedule. vLLM's older model
runner then runs a dummy batch, where external_launcher has data parallel (v1/worker/gpu_model_runner.py,
execute_model). Its newer one returns at once (v1/worker/gpu/model_runner.py), and the other lanes hang.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLMEngine


def turn_on(engine: LLMEngine) -> str:
    """Have this engine run a dummy batch in place of an empty one; returns why that is needless, if it is."""
    if engine.vllm_config.parallel_config.data_parallel_size == 1:
        return "a replica has one lane"
    if not engine.vllm_config.use_v2_model_runner:
        return "vLLM's model runner does so itself"
    executor: Any = engine.engine_core.engine_core.model_executor
    launch = executor.execute_model

    def execute_model(scheduled: Any, non_block: bool = False) -> Any:
        answer = launch(scheduled, non_block=non_block)
        if scheduled.total_num_scheduled_tokens == 0:
            executor.execute_dummy_batch()
        return answer

    executor.execute_model = execute_model
    return ""
