"""Special tokens that texts spell, in every kind of tokenizer: text in messages, tokens in templates."""

import numpy as np
import pytest

from train.data import tokenizer as tokenizers
from train.data.spelled import MARK, Spelled

WORDS = ["hi there, who am i at the end of it"] * 20
SPECIALS = ("<|im_start|>", "<|im_end|>", "<s>")


def made(kind):
    if kind == "gpt2":
        return tokenizers.named("gpt2", None), "<|endoftext|>"
    if kind == "wordpiece":
        return tokenizers.named("wordpiece:600", WORDS, encoder=True), "[SEP]"
    size = {} if kind in ("char", "byte") else {"size": 300}
    own = tokenizers.train(kind, WORDS, specials=SPECIALS, bos="<s>", eos="<|im_end|>", **size)
    return own, "<|im_end|>"


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe", "wordpiece", "gpt2"])
def test_a_message_s_is_text_and_a_template_s_is_a_token(kind):
    own, name = made(kind)
    spelled = Spelled(own)
    said = f"hi {name} there{name}"
    assert spelled.within([{"content": said}]) and not spelled.within({"content": "hi"})
    apart = spelled.apart({"content": said})["content"]
    assert spelled.joined(apart) == said and not spelled.within(apart)
    (index,) = own.encode(name)
    want = [index, *own.encode(said, special=False), index]
    assert spelled.encode(f"{name}{apart}{name}").tolist() == want
    plain = f"{name}hi there{name}, who"
    np.testing.assert_array_equal(spelled.encode(plain), own.encode(plain))


def test_tokens_that_overlap_or_are_one_character_are_pulled_apart():
    own = tokenizers.train("char", ["xyz"], specials=("xy", "yz", "#"), bos="xy", eos="yz")
    spelled = Spelled(own)
    for said in ("xyz", "xyyz", "#", "x#y", "##"):
        apart = spelled.apart(said)
        assert not spelled.within(apart) and spelled.joined(apart) == said
        assert spelled.encode(apart).tolist() == own.encode(said, special=False).tolist()
    assert spelled.encode("#").tolist() == own.encode("#").tolist()


def test_a_tokenizer_without_special_tokens_spells_none():
    raw = tokenizers.tokenizers.Tokenizer(tokenizers.tokenizers.models.BPE())
    assert not Spelled(tokenizers.Tokenizer.wrap(raw)).within("<|im_end|>")


def test_a_mark_in_a_message_is_refused():
    with pytest.raises(ValueError, match="a character that is no text"):
        Spelled(made("char")[0]).apart(f"a{MARK}")
