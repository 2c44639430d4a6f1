"""Text as it is generated: pieces that never split a character, and stop strings that never leak.

`decode` is any function from a list of ids to text, such as a tokenizer's.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from models import generate as generation
from models import prompts
from models.settings import Settings
from models.step import Step

UNFINISHED = "\ufffd"  # what decoders write for bytes that are no character yet
CONTEXT = 6  # tokens of the prompt that the first new ones are decoded with
CHUNK = 16  # tokens between two looks for a stop string


class Detokenizer:
    """New ids to new text. What follows the prompt is decoded after its last tokens, since many
    tokenizers drop or add a space at the beginning of a text."""

    def __init__(self, decode, prompt=()):
        self.decode = decode
        self.ids = [int(i) for i in prompt][-CONTEXT:]
        self.start, self.said = 0, len(self.ids)

    def add(self, token: int) -> str:
        """The text that a token completes; empty while a character is unfinished."""
        self.ids.append(int(token))
        text = self._rest()
        if not text or text.endswith(UNFINISHED):
            return ""
        self.start, self.said = self.said, len(self.ids)
        return text

    def flush(self) -> str:
        """What is left at the end, unfinished characters included."""
        text = self._rest()
        self.start = self.said = len(self.ids)
        return text

    def _rest(self):
        before = self.decode(self.ids[self.start : self.said])
        after = self.decode(self.ids[self.start :])
        if before.endswith(UNFINISHED):  # a character that the prompt begins may be whole now
            before = os.path.commonprefix([before, after])
        return after[len(before) :]


class Stops:
    """Passes text on up to the first stop string, holding back what may be the start of one."""

    def __init__(self, stop: tuple):
        self.stop, self.held = stop, ""

    def add(self, text: str):
        """(the text that is safe to show, whether a stop string was met)."""
        self.held += text
        found = [at for at in (self.held.find(stop) for stop in self.stop) if at >= 0]
        if found:
            shown, self.held = self.held[: min(found)], ""
            return shown, True
        keep = max((_overlap(self.held, stop) for stop in self.stop), default=0)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown, False

    def flush(self) -> str:
        shown, self.held = self.held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`, the whole of `stop` excepted."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


class _Row:
    """One row's text: ids in, pieces out."""

    def __init__(self, decode, prompt, s: Settings):
        self.text, self.stops = Detokenizer(decode, prompt), Stops(s.stop)
        self.eos, self.ended = s.eos, False

    def add(self, ids):
        """(the new piece, how many ids were read until a stop string was met, or -1)."""
        piece = ""
        for count, token in enumerate(ids, 1):
            if token in self.eos:
                break
            shown, hit = self.stops.add(self.text.add(token))
            piece += shown
            if hit:
                self.ended = True
                return piece, count
        return piece, -1

    def flush(self):
        if self.ended:
            return ""
        shown, hit = self.stops.add(self.text.flush())
        self.ended = True
        return shown if hit else shown + self.stops.flush()


def stream(
    model, variables, tokens, mask=None, settings=None, decode=None, seeds=None, key=None, chunk=1,
    prompt=None,
):  # fmt: skip
    """Generates like `generate.generate`, yielding a list of new pieces of text, one for each row,
    after every `chunk` tokens; the generator's return value is the `Generated`.

    A row's pieces make up its text without EOS, stop string or what follows it. ValueError with
    beams, which have no text until they end, and for a chunk below 1.
    """
    s = settings or Settings()
    if s.num_beams > 1:
        raise ValueError("beams cannot be streamed: they have no text until they end")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 token between two pieces")
    tokens, mask, source = prompts.given(model.o, tokens, mask, s, prompt)
    keys = prompts.row_keys(len(tokens), s, seeds, key)
    core = dataclasses.replace(s, stop=())
    step, prompt = Step(model), tokens.shape[1]
    said = [t[m.astype(bool)] for t, m in zip(tokens, mask, strict=True)]
    rows = [_Row(decode, ids, s) for ids in said for _ in range(s.num_return_sequences)]
    state = generation.first(step, variables, tokens, mask, keys, core, source)
    seen = 0
    while True:
        now = int(state["step"])
        written = np.asarray(state["tokens"])[:, prompt + seen : prompt + now]
        lengths = np.asarray(state["lengths"])
        pieces, ends = [], np.full(len(rows), -1)
        for number, row in enumerate(rows):
            piece, count = "", -1
            if not row.ended:
                piece, count = row.add(written[number, : max(lengths[number] - seen, 0)].tolist())
            pieces.append(piece)
            ends[number] = seen + count if count >= 0 else -1
        if (ends >= 0).any():
            state = _end(state, prompt, ends, s)
        finished = bool(state["done"].all()) or now >= s.max_new_tokens
        if finished:
            pieces = [piece + row.flush() for piece, row in zip(pieces, rows, strict=True)]
        yield pieces
        if finished:
            return generation.sound(generation.finish(state, prompt))
        seen = now
        state = generation.proceed(step, variables, state, now + chunk, prompt, core)


def _end(state, prompt, ends, s):
    """Ends rows after `ends` [R] new tokens (-1: not at all): the rest becomes padding."""
    ends = jnp.asarray(ends)
    cut = ends >= 0
    lengths = jnp.where(cut, ends, state["lengths"])
    new = jnp.arange(s.max_new_tokens)[None, :]
    beyond = cut[:, None] & (new >= lengths[:, None])
    tokens = state["tokens"]
    tokens = tokens.at[:, prompt:].set(jnp.where(beyond, s.fill, tokens[:, prompt:]))
    zero = lambda x: jnp.where(beyond, 0.0, x)  # noqa: E731
    return {
        **state,
        "tokens": tokens,
        "lengths": lengths.astype(jnp.int32),
        "done": state["done"] | cut,
        "stopped": state["stopped"] | cut,
        "log_probs": zero(state["log_probs"]),
        "sample_log_probs": zero(state["sample_log_probs"]),
    }


def generate(model, variables, tokens, mask=None, settings=None, decode=None, seeds=None, key=None):
    """(Generated, the list of texts): `generate.generate` with stop strings and text.

    The tokens of a row end with the one that completes its stop string, its text before it.
    """
    s = settings or Settings()
    if s.stop:
        steps = stream(model, variables, tokens, mask, s, decode, seeds, key, CHUNK)
        texts = None
        while True:
            try:
                pieces = next(steps)
            except StopIteration as end:
                return end.value, texts
            texts = pieces if texts is None else [a + b for a, b in zip(texts, pieces, strict=True)]
    out = generation.generate(model, variables, tokens, mask, s, seeds, key)
    texts = []
    for row, new in zip(np.asarray(out.sequences), out.new(), strict=True):
        number = len(texts) // s.num_return_sequences
        whole = mask is None or model.o.kind == "encdec"
        real = slice(None) if whole else np.asarray(mask)[number].astype(bool)
        reader = _Row(decode, row[: out.prompt][real], s)
        texts.append(reader.add(jax.device_get(new).tolist())[0] + reader.flush())
    return out, texts
