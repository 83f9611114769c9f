"""What the engine gets for a row: its prompt, parameters and adapter."""

from __future__ import annotations

from typing import Any

from vllm import LLMEngine

from vllm_hpc.engine.interface import Ready
from vllm_hpc.engine.rows.chat_template import PromptMaker
from vllm_hpc.engine.rows.checks import check_task
from vllm_hpc.engine.rows.detokenize import TextMaker
from vllm_hpc.engine.rows.lora import AdapterChoice
from vllm_hpc.engine.rows.reasoning import ReasoningSplit
from vllm_hpc.engine.rows.sampling import SamplingMaker, pooling_params
from vllm_hpc.engine.rows.structured_output import grammar_check
from vllm_hpc.engine.rows.tool_calls import ToolParsers, ToolReader
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row


class RequestMaker:
    """Makes rows ready. Raises at once if the job's own sampling is wrong.

    Called on a separate thread while the engine steps: it uses only the engine's renderer, grammar compiler and
    configuration. ``record`` has the text of the job's chat template. ``writes``: whether this rank writes the answers,
    and so needs their text.
    """

    def __init__(self, engine: LLMEngine, record: JobRecord, writes: bool) -> None:
        config = engine.vllm_config
        self._pools = config.model_config.runner_type == "pooling"
        self._writes = writes
        self._can_embed = "embed" in engine.get_supported_tasks()
        self._prompt = PromptMaker(engine, record.request.chat_template)
        self._lora = AdapterChoice(record)
        self._created = int(record.created_at)
        self._split = ReasoningSplit.of(engine) if writes else None
        self._tools = ToolParsers(engine, record.plan.engine)
        self._texts = TextMaker(engine) if writes and not self._pools else None
        self._sampling = SamplingMaker(engine, record)
        if not self._pools:
            self._check_grammar = grammar_check(engine, self._sampling({}))
        self._lora.load(engine)

    def __call__(self, row: Row) -> Ready:
        """Make a row ready. Raises whatever vLLM, the tokenizer or a chat template says is wrong with it."""
        lora = self._lora(row)
        params, text, calls = self._params(row)
        prompt = self._prompt(row, self._sampling.cuts(row))
        split = self._split if "messages" in row else None
        return Ready(row, prompt, params, lora, text, split, calls, self._created)

    def _params(self, row: Row) -> tuple[Any, TextMaker | None, ToolReader | None]:
        """The parameters, what makes the text if vLLM need not make it, and what reads calls of tools in it."""
        if self._task(row) == "embed":
            return pooling_params(row, "embed"), None, None
        params = self._sampling(row)
        calls = self._tools(row, params, self._prompt.template_arguments(row)) if "messages" in row else None
        self._check_grammar(params)
        text = self._texts if self._texts is not None and self._texts.can_wait(params) else None
        # vLLM looks for stop strings in the text, so then every rank needs it.
        if text is not None or (not self._writes and not params.stop):
            params.detokenize = False
        return params, text, calls if self._writes else None

    def _task(self, row: Row) -> str:
        """The row's task. Raises ValueError if this job's model cannot do it."""
        able = check_task(row, self._pools)
        if able == "embed" and not self._can_embed:
            raise ValueError("this pooling model cannot make embeddings")
        return able
