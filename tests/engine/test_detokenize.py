"""Texts that are made when a row has ended are those that vLLM would have made token by token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    """What these tests import, each for itself."""
    pytest.importorskip("vllm")


SENTENCES = ["The capital of France is Paris.", "naïve café — 東京 🙂", "  def f(x):\n\treturn x"]
# Pieces of characters: of "é", of "€", an "A", and one that is never a part of any.
BYTES = [f"<0x{number:02X}>" for number in (0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0x41, 0xFF)]


def byte_level() -> Any:
    """As Llama 3's, Qwen's: a token may be a part of a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def metaspace() -> Any:
    """As Llama 2's, Gemma's: words begin with a '▁', which a text's first one loses."""
    from tokenizers import Tokenizer, decoders, models

    words = ["<s>", "</s>", "<unk>", "▁The", "▁capital", "▁of", "France", "▁", "a", "b", "▁café", "東京", ".", *BYTES]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


class Both:
    """A tokenizer's texts, made at once and token by token."""

    def __init__(self, inner: Any) -> None:
        from transformers import PreTrainedTokenizerFast

        from vllm_hpc.engine.rows.detokenize import TextMaker

        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
        engine: Any = SimpleNamespace(renderer=SimpleNamespace(tokenizer=self.tokenizer))
        self.maker, self.size = TextMaker(engine), inner.get_vocab_size()

    def check(self, prompt: list[int], tokens: list[int], is_stopped: bool = False, **options: Any) -> str:
        from vllm import SamplingParams
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        params = SamplingParams(**options)
        assert self.maker.can_wait(params)
        request: Any = SimpleNamespace(
            request_id="r", prompt_token_ids=prompt, prompt_embeds=None, sampling_params=params
        )
        stepped = IncrementalDetokenizer.from_new_request(self.tokenizer, request)
        for number, token in enumerate(tokens):
            stepped.update([token], is_stopped and number == len(tokens) - 1)
        text = self.maker(prompt, tokens, is_stopped, params)
        assert text == stepped.get_next_output_text(finished=True, delta=False)
        return text


@pytest.fixture(scope="module", params=[byte_level, metaspace])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param())


@given(data=st.data())
def test_texts_are_vllms(both: Both, data: st.DataObject) -> None:
    ids = st.integers(0, both.size - 1)
    prompt = data.draw(st.lists(ids, min_size=1, max_size=12))
    tokens = data.draw(st.lists(ids, max_size=40))
    is_stopped = data.draw(st.booleans()) and bool(tokens)
    options = {name: data.draw(st.booleans()) for name in ("skip_special_tokens", "include_stop_str_in_output")}
    both.check(prompt, tokens, is_stopped, **options)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_text_is_the_text(sentence: str) -> None:
    both = Both(byte_level())
    tokens = both.tokenizer.encode(sentence, add_special_tokens=False)
    assert both.check([5], tokens) == sentence
    assert both.check([5], [*tokens, 1], is_stopped=True) == sentence
    assert sentence.startswith(both.check([5], tokens[:-1]))


@pytest.mark.parametrize(
    "options",
    [{"stop": ["a"]}, {"logprobs": 1}, {"prompt_logprobs": 1}, {"detokenize": False},
     {"skip_special_tokens": False, "spaces_between_special_tokens": False}],
)  # fmt: skip
def test_what_needs_the_text_before_its_end_is_left_to_vllm(options: dict[str, Any]) -> None:
    from vllm import SamplingParams

    assert not Both(byte_level()).maker.can_wait(SamplingParams(**options))
