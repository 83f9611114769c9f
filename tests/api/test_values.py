"""What people have in Python is taken as an option's value, or refused in one line that names the option."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np
import pytest

from vllm_hpc.api.functions import prepare
from vllm_hpc.api.values import plain_model, plain_options
from vllm_hpc.spec.errors import VllmHpcError

pytestmark = pytest.mark.notebooks


class Name(str):
    __slots__ = ()


class Kind(Enum):
    SLURM = "slurm"
    MANY = 8


class Sampling(msgspec.Struct):  # as vLLM's SamplingParams
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = 16
    stop: list[str] | None = None
    structured_outputs: Any = None
    output_text_buffer_length: int = 0
    _all_stop_token_ids: set[int] = msgspec.field(default_factory=set)

    def __post_init__(self) -> None:
        self.stop = self.stop or []
        self.output_text_buffer_length = max((len(one) for one in self.stop), default=0)


class Person:  # as a class of pydantic
    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object", "properties": {"age": {"type": "integer"}}}


SCHEMA = Person.model_json_schema()


@pytest.mark.parametrize(
    ("name", "given", "plain"),
    [
        ("temperature", np.float64(0.5), 0.5),
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", np.array(0.5), 0.5),
        ("temperature", Decimal("0.5"), 0.5),
        ("max_tokens", np.int64(3), 3),
        ("array", np.bool_(True), True),
        ("name", np.str_("first"), "first"),
        ("name", Name("first"), "first"),
        ("scheduler", Kind.SLURM, "slurm"),
        ("nodes", Kind.MANY, 8),
        ("job_dir", Path("runs"), "runs"),
        ("lora", PurePosixPath("adapter"), ["adapter"]),
        ("directive", "--exclusive", ["--exclusive"]),
        ("time", timedelta(days=1, hours=2, seconds=3.5), "1-02:00:04"),
        ("time", timedelta(minutes=30), "0-00:30:00"),
        ("time", 30, "30"),
        ("time", np.int64(30), "30"),
        ("time", "2:00:00", "2:00:00"),
        ("drain_lead", timedelta(minutes=5), 300),
        ("env", {"A": 1, "B": Path("/x"), "C": None, "D": "1"}, {"A": "1", "B": "/x", "C": None, "D": "1"}),
        ("script_args", ["--steps", 3, np.float64(0.5), Path("x")], ["--steps", "3", "0.5", "x"]),
        ("engine", {"a": np.arange(2), "b": (1, {"c": np.float64(2)})}, {"a": [0, 1], "b": [1, {"c": 2.0}]}),
        ("sampling", {"structured_outputs": {"json": Person}}, {"structured_outputs": {"json": SCHEMA}}),
        ("sampling", {"response_format": Person}, {"structured_outputs": {"json": SCHEMA}}),
        ("sampling", Sampling(temperature=0.5, stop=["a"]), {"temperature": 0.5, "stop": ["a"]}),
        ("sampling", Sampling(structured_outputs={"json": Person}), {"structured_outputs": {"json": SCHEMA}}),
        ("rehearse", {"load_s": np.float64(1)}, {"load_s": 1.0}),
        ("rehearse", True, True),
    ],
)
def test_a_value_becomes_plain(name: str, given: Any, plain: Any) -> None:
    (found,) = plain_options({name: given}).values()
    assert found == plain
    assert msgspec.json.encode(found) == msgspec.json.encode(plain)
    assert type(found) is type(plain)


def test_rows_and_code_stay_as_they_are() -> None:
    rows, code = iter(["a"]), object()
    assert plain_options({"input": rows, "program": code, "nodes": None}) == {"input": rows, "program": code}


def nested() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["again"] = found
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": {"a": object()}}, "engine['a'] must be text, numbers, lists or dicts of them, not an object"),
        ({"engine": 3}, "engine= must be a dict, not an int"),
        ({"engine": nested()}, "engine['again'] is nested too deeply"),
        ({"engine": {"seed_x": float("nan")}}, "engine['seed_x'] contains nan, which JSON cannot express"),
        ({"engine": {"a": {1, 2}}}, "engine['a'] must be text, numbers, lists or dicts of them, not a set"),
        ({"sampling": Person}, "sampling= must be a dict, not the class Person"),
        ({"sampling": {1: 2}}, "sampling= must have texts as keys, not an int"),
        (
            {"sampling": {"response_format": Person, "structured_outputs": {}}},
            "sampling= has both response_format and structured_outputs: keep one",
        ),
        ({"time": timedelta(0)}, "time= must be more than 0 seconds, not datetime.timedelta(0)"),
        ({"time": True}, 'time= must be a string such as "2:00:00"'),
        ({"nodes": 2.5}, "nodes= must be a whole number from 1 to 100000"),
        ({"nodes": object()}, "nodes= must be a whole number from 1 to 100000"),
        ({"temperature": "hot"}, "temperature= must be a number"),
        ({"temperature": np.array([1.0, 2.0])}, "temperature= must be a number"),
        ({"array": "yes"}, "array= must be True or False"),
        ({"lora": {"a"}}, "lora= must be a list, not a set, which has no order"),
        ({"env": {"A": True}}, 'env= must be a dict of strings such as {"NCCL_DEBUG": "INFO"}'),
        ({"name": "a\0b"}, "name='a\\x00b' is empty or contains a control character: choose another name"),
        ({"queue": "a", "partition": "b"}, "queue and partition are the same: leave out one"),
        ({"scheduler": "lsf"}, "scheduler="),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_no_option_takes_is_refused_in_one_line(desk: Path, options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"rehearse": True, "scheduler": "slurm", **options}
    with pytest.raises(VllmHpcError) as caught:
        prepare(**given)
    assert str(caught.value) == said or (said.endswith("=") and str(caught.value).startswith(said))


def test_rows_in_place_of_the_model_are_told_apart() -> None:
    assert plain_model(Path("model")) == "model"
    with pytest.raises(VllmHpcError, match=r"^model must be a model's folder or Hub id, .* not a list: .* input=$"):
        prepare(["a", "b"])  # type: ignore[arg-type]
