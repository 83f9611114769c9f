"""vLLM's own server for chats, in this process: its renderer and serving classes around an engine that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

_names = count()


class Client:
    """What vLLM's serving classes need of their engine, which answers one request at a time."""

    errored = False

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.vllm_config = engine.vllm_config
        self.model_config = engine.vllm_config.model_config
        self.renderer = engine.renderer
        self.input_processor = engine.input_processor
        self.prompt: list[int] = []

    def check_admission(self, n: int) -> None:
        """There is room."""

    async def is_tracing_enabled(self) -> bool:
        return False

    async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> AsyncIterator[Any]:
        name = f"server-{next(_names)}"
        self._engine.add_request(name, prompt, params)
        while True:
            for output in self._engine.step():
                if output.request_id == name:
                    self.prompt = list(output.prompt_token_ids)
                    yield output
                    return


def serve(engine: Any, body: dict[str, Any], tool_parser: str | None, chat_template: str | None) -> dict[str, Any]:
    """What ``vllm serve --trust-request-chat-template`` answers to a chat: the response, or the error; and the prompt.

    With a tool parser also as with --enable-auto-tool-choice.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.renderers.online_renderer import OnlineRenderer

    client: Any = Client(engine)
    given: dict[str, Any] = {
        "request_logger": None,
        "chat_template": chat_template,
        "chat_template_content_format": "auto",
        "trust_request_chat_template": True,
        "enable_auto_tools": tool_parser is not None,
        "tool_parser": tool_parser,
        "reasoning_parser": engine.vllm_config.structured_outputs_config.reasoning_parser,
    }
    models = OpenAIServingModels(client, [BaseModelPath(name="tiny", model_path=client.model_config.model)])
    renderer = OnlineRenderer(client.model_config, client.renderer, **given)
    chats = OpenAIServingChat(client, models, "assistant", online_renderer=renderer, **given)
    try:
        request = ChatCompletionRequest.model_validate({"model": "tiny", **body})
        answer = asyncio.run(chats.create_chat_completion(request))
    except Exception as error:  # noqa: BLE001 - of pydantic, of vLLM, of jinja2: the server's exception handlers take all
        return {"error": str(error)}
    if (failed := getattr(answer, "error", None)) is not None:
        return {"error": failed.message}
    assert not isinstance(answer, AsyncIterator)
    return {"prompt": client.prompt, "body": answer.model_dump(mode="json")}
