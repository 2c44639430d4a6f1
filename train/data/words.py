"""Where words and sentences begin and end in a row of token ids, read off the vocabulary alone.

Token stores keep ids and no text, so that boundaries are found by tables over the vocabulary: what
each piece's text begins and ends with. Words are those of the tokenizer: a WordPiece begins one
unless it carries the prefix (`##`); elsewhere a piece begins one if white space comes first, or if
it goes from letters to digits or to other signs, as GPT-2's pre-tokeniser cuts.
"""

import json
import re

import numpy as np

SPACE, LETTER, DIGIT, OTHER, GAP = range(5)  # GAP: a lone blank, which the next piece continues
_SENTENCE = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*\s*$")
_CLOSING = re.compile(r"^[\"'\u201d\u2019)\].!?\u2026]+\s*$")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Words:
    """Tables over a tokenizer's vocabulary.

    Attributes: `special` bool [V], tokens that stand for no text; `ordinary` int32, the ids of all
    others; `continues` bool [V], WordPieces that go on a word.
    """

    def __init__(self, tokenizer):
        raw = tokenizer.raw
        contents = json.loads(raw.to_str())
        model = contents["model"]
        self.prefixed = model.get("type") == "WordPiece"
        self.blank = model.get("type") == "Unigram"  # only white space parts words
        self.prefix = model.get("continuing_subword_prefix") or "##"
        self.spaces = not self.prefixed or "ByteLevel" in json.dumps(contents.get("decoder"))
        added = {token["id"] for token in contents.get("added_tokens", ()) if token.get("special")}
        size = tokenizer.vocab
        self.special = np.ones(size, bool)
        self.continues = np.zeros(size, bool)
        self.first, self.last = np.full(size, OTHER, np.int8), np.full(size, OTHER, np.int8)
        for name in ("ends", "closes", "breaks"):
            setattr(self, f"_{name}", np.zeros(size, bool))
        stand_in = _bytes_of_stand_ins() if "ByteLevel" in json.dumps(contents) else {}
        for piece, index in raw.get_vocab(with_added_tokens=True).items():
            if index not in added:
                self._learn(index, piece, stand_in)
        for role in ("pad", "cls", "sep", "mask"):
            if getattr(tokenizer, role, -1) >= 0:
                self.special[getattr(tokenizer, role)] = True
        self.ordinary = np.flatnonzero(~self.special).astype(np.int32)

    def _learn(self, index, piece, stand_in):
        self.special[index] = False
        if self.prefixed and piece.startswith(self.prefix) and len(piece) > len(self.prefix):
            self.continues[index] = True
            piece = piece[len(self.prefix) :]
        text = _text(piece, stand_in)
        self.first[index], self.last[index] = _kind(text[:1]), _kind(text[-1:])
        if text == " ":
            self.last[index] = GAP
        self._ends[index] = bool(_SENTENCE.search(text))
        self._closes[index] = bool(_CLOSING.match(text))
        self._breaks[index] = "\n" in text

    def starts(self, tokens) -> np.ndarray:
        """bool [n]: whether a word begins at each token; a special token is a word of its own."""
        tokens = np.asarray(tokens)
        if not len(tokens):
            return np.zeros(0, bool)
        alone = self.special[tokens]
        if self.prefixed:
            start = ~self.continues[tokens]
        else:
            first, before = self.first[tokens], np.roll(self.last[tokens], 1)
            start = (first == SPACE) | (before == SPACE)
            if not self.blank:
                start |= (first != before) & (before != GAP)
        start[1:] |= alone[:-1]
        start |= alone
        start[0] = True
        return start

    def sentence_ends(self, tokens) -> np.ndarray:
        """bool [n]: whether a sentence ends with each token; the last one always does.

        A sentence ends at `.`, `!` or `?` with the quotes and brackets that close behind it, where
        white space or (if the tokenizer drops it) another word follows, and at an empty line.
        """
        tokens = np.asarray(tokens)
        count = len(tokens)
        if not count:
            return np.zeros(0, bool)
        after = np.append(tokens[1:], tokens[-1])
        run = self._ends[tokens]
        for _ in range(2):  # quotes and brackets behind the stop
            run = run | (self._closes[tokens] & np.append(False, run[:-1]))
        apart = self.first[after] == SPACE if self.spaces else ~self.continues[after]
        end = run & apart & ~self._closes[after]
        breaks = self._breaks[tokens]
        end |= breaks & np.append(False, breaks[:-1])
        end[-1] = True
        return end


def _bytes_of_stand_ins() -> dict:
    from train.data.vocab import byte_alphabet

    return {char: byte for byte, char in enumerate(byte_alphabet())}


def _text(piece: str, stand_in: dict) -> str:
    """The text of a piece as far as one piece has one; bytes of a torn character become letters."""
    spelt = _BYTE.fullmatch(piece)
    if spelt:
        return _decoded(bytes([int(spelt[1], 16)]))
    if stand_in and all(char in stand_in for char in piece):
        return _decoded(bytes(stand_in[char] for char in piece))
    return piece.replace("\u2581", " ")


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\ufffd", "\u00e9")


def _kind(char: str) -> int:
    if not char or char.isspace():
        return SPACE
    if char.isalpha():
        return LETTER
    return DIGIT if char.isnumeric() else OTHER
