"""Reading: how the fields of a row become a prompt, as a job's options say."""

from __future__ import annotations

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.request import Request


class Reading(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The options by which rows are read; input.json keeps them for an input that is read again on the ranks.

    ``rename``: new names by old ones, before anything else. Of ``prompt_column`` and ``prompt_template`` at most one is
    set. ``id_column``: the field with a row's id; ``keep``: the fields that are copied, None
    for all. ``drop_last_answer``: the assistant's last turn is not part of the prompt.
    """

    prompt_column: str | None = None
    prompt_template: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] | None = None
    rename: dict[str, str] = {}
    drop_last_answer: bool = False

    @classmethod
    def of(cls, request: Request) -> Reading:
        """The reading that a request asks for. Raises RequestError, also for a template that does not compile."""
        given = {name: getattr(request, name) for name in cls.__struct_fields__}
        given["keep"] = None if request.keep is None else tuple(request.keep)
        reading = cls(**given)
        if reading.options and request.input is None:
            raise RequestError(f"{reading.options[0]} is about the rows of an input: add --input, or leave it out")
        if reading.prompt_template is not None:
            from vllm_hpc.rows.template import PromptTemplate

            PromptTemplate(reading.prompt_template)
        return reading

    @property
    def options(self) -> list[str]:
        """The options that were given."""
        return [
            f"--{name.replace('_', '-')}"
            for name in self.__struct_fields__
            if getattr(self, name) not in (None, {}, False)
        ]

    @property
    def makes_prompt(self) -> bool:
        """Whether the prompt is made from other fields."""
        return self.prompt_column is not None or self.prompt_template is not None


AS_IT_IS = Reading()
