"""The patches: what each does, the names of vLLM that it needs, and the versions in which it is on.

Nothing here imports vLLM. docs/vllm-versions.md is made from this table (tests/vllm_names.py).
"""

from __future__ import annotations

from itertools import chain

import msgspec

SLOWER = "the job runs slower"


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """One change to vLLM's internals.

    ``without``: what happens if it is off. ``names``: "module:attribute" or "module:class.attribute"; ``__init__`` may
    set the attribute. ``read``: the versions whose source was compared with the patch line by line, which is off in all
    others; None if its names are enough. ``off``: versions in which it is off, and why.
    """

    name: str
    does: str
    without: str
    names: tuple[str, ...]
    read: tuple[str, ...] | None = None
    off: dict[str, str] = {}

    def off_in(self, version: str) -> str:
        """Why the patch is off in this version of vLLM, which has its names; "" if it is on."""
        minor = minor_of(version)
        if minor in self.off:
            return self.off[minor]
        if self.read is not None and minor not in self.read:
            return f"the patch was not checked against the source of vLLM {version}"
        return ""


def minor_of(version: str) -> str:
    """The version's first two numbers, as in the table: 0.32 for 0.32.1+cpu."""
    return ".".join(version.split(".")[:2])


def _of(owner: str, attributes: str) -> tuple[str, ...]:
    """The names of a class, and of attributes of it."""
    return (owner, *(f"{owner}.{attribute}" for attribute in attributes.split()))


_ENGINE_CORE = (
    "vllm.v1.engine.llm_engine:LLMEngine.engine_core",
    "vllm.v1.engine.core_client:InprocClient.engine_core",
)
_SCHEDULER = (
    *_of(
        "vllm.v1.core.sched.scheduler:Scheduler",
        "schedule update_from_output running requests kv_cache_manager scheduler_config policy max_model_len "
        "current_step use_v2_model_runner prev_step_scheduled_req_ids num_sampled_tokens_per_step _pause_state "
        "max_num_scheduled_tokens max_num_running_reqs",
    ),
    "vllm.v1.core.sched.async_scheduler:AsyncScheduler",
    "vllm.v1.core.sched.interface:PauseState.UNPAUSED",
    "vllm.v1.core.sched.request_queue:SchedulingPolicy.FCFS",
)
_REQUEST = (
    *_of(
        "vllm.v1.request:Request",
        "request_id status sampling_params lora_request use_structured_output has_encoder_inputs resumable max_tokens "
        "num_prompt_tokens num_tokens num_computed_tokens num_in_flight_tokens num_output_placeholders spec_token_ids "
        "next_decode_eligible_step is_prefill_chunk update_block_hashes _all_token_ids _output_token_ids",
    ),
    "vllm.v1.request:RequestStatus.RUNNING",
    *_of(
        "vllm.sampling_params:SamplingParams",
        "output_kind num_logprobs stop repetition_detection eos_token_id stop_token_ids",
    ),
    "vllm.sampling_params:RequestOutputKind.FINAL_ONLY",
)
_STEP = (
    *_of(
        "vllm.v1.core.sched.output:SchedulerOutput",
        "finished_req_ids scheduled_cached_reqs num_scheduled_tokens total_num_scheduled_tokens",
    ),
    *_of(
        "vllm.v1.core.sched.output:CachedRequestData",
        "req_ids new_block_ids num_computed_tokens num_output_tokens",
    ),
    *_of(
        "vllm.v1.outputs:ModelRunnerOutput",
        "sampled_token_ids num_nans_in_logits pooler_output req_id_to_index",
    ),
    "vllm.v1.engine:EngineCoreOutputs.outputs",
    *_of("vllm.v1.engine:EngineCoreOutput", "request_id new_token_ids"),
)
_KV_SLOTS = (
    *_of("vllm.v1.core.kv_cache_manager:KVCacheManager", "coordinator block_pool enable_caching cache_blocks"),
    "vllm.v1.core.kv_cache_coordinator:KVCacheCoordinator.single_type_managers",
    *_of("vllm.v1.core.block_pool:BlockPool", "hash_block_size get_num_free_blocks"),
    *_of(
        "vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager",
        "block_size req_to_blocks num_cached_block _partial_hit_reqs",
    ),
)
_EXECUTOR = "vllm.v1.executor.uniproc_executor:ExecutorWithExternalLauncher"
_NATIVE_EXECUTOR = "vllm.v1.executor.multiproc_executor:MultiprocExecutor"
_OWN_SHARDING = "vLLM can do this itself, off by default: --engine enable_batch_sharded_sampling=true"
_PARTS_OF_A_START = "_init_executor determine_available_memory initialize_from_config"
_SAME_BITS_READ = ("0.26", "0.27", "0.28", "0.29", "0.30", "0.31", "0.32", "0.33")

_ALL = (
    Patch(
        name="fast-schedule",
        does="sequences that only continue take a shortcut through the scheduler",
        without=SLOWER,
        names=(*_ENGINE_CORE, "vllm.v1.engine.core:EngineCore.scheduler", *_SCHEDULER, *_REQUEST, *_STEP, *_KV_SLOTS),
        read=("0.26", "0.32", "0.33"),
    ),
    Patch(
        name="sharded-sampling",
        does="the ranks of a TP group divide the rows to sample among themselves",
        without=SLOWER,
        names=(
            *_ENGINE_CORE,
            "vllm.v1.engine.core:EngineCore.model_executor",
            "vllm.v1.executor.uniproc_executor:UniProcExecutor",
            "vllm.distributed.parallel_state:get_tp_group",
            *_of("vllm.distributed.parallel_state:GroupCoordinator", "world_size rank_in_group all_gather"),
            *_of("vllm.v1.worker.gpu.sample.sampler:Sampler", "sample sampling_states use_flashinfer"),
            *_of("vllm.v1.worker.gpu.sample.states:SamplingStates", "vocab_size top_p top_k"),
        ),
        read=("0.26",),
        off=dict.fromkeys(("0.29", "0.30", "0.31", "0.32", "0.33"), _OWN_SHARDING),
    ),
    Patch(
        name="step-overlap",
        does="a rank hands over finished rows, agrees with the others and admits rows while its GPU computes",
        without=SLOWER,
        names=(
            *_ENGINE_CORE,
            *_of("vllm.v1.engine.core:EngineCore", "batch_queue model_executor step_with_batch_queue"),
            *_of("vllm.v1.executor.abstract:Executor", "execute_model sample_tokens"),
        ),
    ),
    Patch(
        name="idle-forward",
        does="with --attention-dp, a step that schedules nothing still runs the model, beside the other lanes",
        without="lanes run with vLLM's older model runner",
        names=(
            *_ENGINE_CORE,
            "vllm.v1.engine.core:EngineCore.model_executor",
            *_of("vllm.v1.executor.abstract:Executor", "execute_model execute_dummy_batch"),
            "vllm.v1.core.sched.output:SchedulerOutput.total_num_scheduled_tokens",
            "vllm.config.vllm:VllmConfig.use_v2_model_runner",
        ),
    ),
    Patch(
        name="late-text",
        does="a row's text is decoded once, when the row ends",
        without=SLOWER,
        names=_of("vllm.v1.engine.detokenizer:IncrementalDetokenizer", "from_new_request update"),
    ),
    Patch(
        name="early-grammar",
        does="a row's grammar is compiled before the row is admitted",
        without="vLLM compiles each grammar in a step, and one that does not compile may end the attempt",
        names=(
            *_ENGINE_CORE,
            "vllm.v1.engine.core:EngineCore.structured_output_manager",
            "vllm.v1.structured_output:StructuredOutputManager.grammar_init",
            *_of("vllm.v1.structured_output.request:StructuredOutputRequest", "from_sampling_params grammar"),
            "vllm.v1.structured_output.backend_xgrammar:validate_xgrammar_grammar",
            "vllm.exceptions:VLLMValidationError",
            "vllm.sampling_params:SamplingParams.verify",
            "vllm.sampling_params:StructuredOutputsParams._backend",
        ),
    ),
    Patch(
        name="skip-clone",
        does="a row's sampling parameters are not copied again when the row is admitted",
        without=SLOWER,
        names=_of("vllm.sampling_params:SamplingParams", "skip_clone"),
    ),
    Patch(
        name="startup-timings",
        does="the parts of the engine's start are timed",
        without="the rank's record has only the time of the whole start",
        names=(
            "vllm.v1.worker.worker_base:WorkerWrapperBase.init_device",
            *_of(_EXECUTOR, _PARTS_OF_A_START),
            *_of(_NATIVE_EXECUTOR, _PARTS_OF_A_START),
        ),
    ),
    Patch(
        name="inspect-in-process",
        does="vLLM inspects the model's class in the rank itself, not in a new process that imports vLLM again",
        without="a model's first start takes 10 to 20 s longer",
        names=("vllm.model_executor.models.registry:_run_in_subprocess",),
    ),
    Patch(
        name="steady-norm",
        does="with --reproducible, RMSNorm sums in one order, however many tokens a step has",
        without="tokens may depend on max_num_seqs",
        names=(
            "vllm.model_executor.layers.layernorm:rms_norm_batch_invariant",
            "vllm.model_executor.layers.layernorm:RMSNorm.forward_cuda",
        ),
        read=_SAME_BITS_READ,
    ),
    Patch(
        name="tree-rows",
        does="with --reproducible, row-parallel layers add their parts in one order, for --tp 1, 2, 4 and 8",
        without="tokens may depend on --tp",
        names=(
            "vllm.distributed.communication_op:tensor_model_parallel_all_gather",
            "vllm.model_executor.layers.linear:UnquantizedLinearMethod",
            *_of(
                "vllm.model_executor.layers.linear:RowParallelLinear",
                "forward input_size input_is_parallel reduce_results tp_size quant_method return_bias skip_bias_add",
            ),
        ),
        read=_SAME_BITS_READ,
    ),
    Patch(
        name="shm-name",
        does="the CPU back-end's shared memory has a name that is unique to this attempt",
        without="two jobs of vLLM's CPU back-end on one node may use each other's shared memory",
        names=_of(_EXECUTOR, "_distributed_args"),
    ),
)
PATCHES = {patch.name: patch for patch in _ALL}

# Names that every job needs: vLLM documents them, or other projects also use them. By the file of vllm_hpc/engine that
# uses them.
REQUIRED: dict[str, tuple[str, ...]] = {
    "startup/make_engine.py": (
        "vllm.engine.arg_utils:EngineArgs",
        *_of("vllm.v1.engine.llm_engine:LLMEngine", "from_engine_args vllm_config"),
        "vllm.usage.usage_lib:UsageContext.LLM_CLASS",
        "vllm.platforms:current_platform",
    ),
    "vllm_engine.py": (
        *_of("vllm.v1.engine.llm_engine:LLMEngine", "add_request step"),
        "vllm.v1.engine.core_client:InprocClient.execute_dummy_batch",
        "vllm.distributed.parallel_state:get_world_group",
        "vllm.distributed.parallel_state:GroupCoordinator.cpu_group",
    ),
    "rows/prompts.py": _of("vllm.v1.engine.llm_engine:LLMEngine", "get_supported_tasks get_tokenizer renderer"),
    "rows/chat_template.py": (
        "vllm.renderers:ChatParams",
        "vllm.renderers.inputs.preprocess:parse_model_prompt",
        "vllm.utils.mistral:is_mistral_tokenizer",
        *_of(
            "vllm.renderers.base:BaseRenderer",
            "render_cmpl render_chat default_cmpl_tok_params default_chat_tok_params tokenizer",
        ),
    ),
    "rows/sampling.py": (
        "vllm.sampling_params:SamplingParams",
        "vllm.sampling_params:RequestOutputKind.FINAL_ONLY",
        "vllm.sampling_params:StructuredOutputsParams",
        "vllm.pooling_params:PoolingParams",
    ),
    "rows/lora.py (--lora)": (
        "vllm.lora.request:LoRARequest",
        "vllm.config.lora:MaxLoRARanks",
        "vllm.v1.engine.llm_engine:LLMEngine.add_lora",
    ),
    "rows/reasoning.py (--engine reasoning_parser)": (
        "vllm.reasoning:ReasoningParserManager",
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest",
    ),
    "rows/tool_calls.py (rows with tools)": (
        *_of("vllm.parser:ParserManager", "get_parser get_reasoning_parser"),
        "vllm.parser:DelegatingParser",
        *_of("vllm.parser:Parser", "reasoning_parser_cls adjust_request parse"),
        "vllm.tool_parsers:ToolParser",
        "vllm.tool_parsers:ToolParserManager.import_tool_parser",
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest",
        "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionToolsParam",
    ),
    "vllm_patches/sampled_tokens.py (--verify)": (
        "vllm.v1.engine.llm_engine:LLMEngine.engine_core",
        "vllm.v1.engine.core_client:InprocClient.get_output",
        "vllm.v1.engine:EngineCoreOutputs.outputs",
        *_of("vllm.v1.engine:EngineCoreOutput", "request_id new_token_ids"),
    ),
    "startup/mp_workers.py (--launcher native)": (
        "vllm.engine.arg_utils:EngineArgs.create_engine_config",
        *_of(_NATIVE_EXECUTOR, "is_failed shutdown"),
    ),
}


def every_name() -> list[str]:
    """All names of vLLM that are looked up, once each."""
    return sorted(set(chain(*(patch.names for patch in _ALL), *REQUIRED.values())))
