"""Compiles a row's grammar before the row is admitted.

A row whose grammar does not compile becomes an error row before an engine sees it, and the engine's own step finds the
compiled grammar in the cache.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm import LLMEngine, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar
from vllm.v1.structured_output.request import StructuredOutputRequest

_DEFAULT_BACKEND = "xgrammar"


class GrammarError(ValueError):
    """vLLM's checks accept the grammar, but it does not compile."""


class GrammarCheck:
    """Checks and compiles the grammars of rows with the engine's own back-end."""

    def __init__(self, engine: LLMEngine) -> None:
        self._config = engine.vllm_config
        self._tokenizer = engine.get_tokenizer()
        # In this process under external_launcher. Otherwise rows are only checked here, and compiled in the step.
        self._manager: Any = getattr(
            getattr(engine.engine_core, "engine_core", None), "structured_output_manager", None
        )
        self.backend: str | None = None
        if (configured := self._config.structured_outputs_config.backend) != "auto":
            self.backend = configured

    def __call__(self, params: SamplingParams) -> None:
        """Check the row's constraint, if it has one. Raises what vLLM or the compiler says of it."""
        if params.structured_outputs is None:
            return
        config = self._config
        params.verify(config.model_config, config.speculative_config, config.structured_outputs_config, self._tokenizer)
        self._check_backend(params)
        if self._manager is not None:
            self._compile(params)

    def settle(self, params: SamplingParams) -> None:
        """Let the job's own constraint choose the back-end: an engine has only one, chosen by its first grammar."""
        if params.structured_outputs is not None and self.backend is None:
            config = self._config
            params.verify(
                config.model_config, config.speculative_config, config.structured_outputs_config, self._tokenizer
            )
            self.backend = params.structured_outputs._backend
        self(params)
        self.backend = self.backend or _DEFAULT_BACKEND

    def _check_backend(self, params: SamplingParams) -> None:
        # Without this, a replica's first row would decide which rows fail. (A back-end that the job chose may accept
        # what xgrammar accepts: its compiler decides.)
        needed = params.structured_outputs._backend
        if self.backend is None or needed in (self.backend, _DEFAULT_BACKEND):
            return
        if self.backend == _DEFAULT_BACKEND:
            _refuse_as_xgrammar(params, needed)
        raise GrammarError(_other_backend(needed, self.backend, ""))

    def _compile(self, params: SamplingParams) -> None:
        request: Any = SimpleNamespace(
            request_id="check",
            sampling_params=params,
            structured_output_request=StructuredOutputRequest.from_sampling_params(params),
        )
        self._manager.grammar_init(request)
        grammar = request.structured_output_request.grammar
        if isinstance(grammar, Exception):
            raise GrammarError(f"the grammar does not compile: {grammar}") from grammar


def _refuse_as_xgrammar(params: SamplingParams, needed: str) -> None:
    """Raise GrammarError with xgrammar's objection to a constraint."""
    try:
        validate_xgrammar_grammar(params)
    except (ValueError, VLLMValidationError) as error:
        raise GrammarError(_other_backend(needed, _DEFAULT_BACKEND, f" ({error})")) from None


def _other_backend(needed: str, ours: str, why: str) -> str:
    return (
        f"the grammar does not compile with {ours}{why}; {needed} might accept it, but a job has one back-end: "
        f'--engine structured_outputs_config={{"backend":"{needed}"}}'
    )
