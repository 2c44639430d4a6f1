"""Special tokens that a message spells: text, where a chat template writes the same as control tokens.

A template's text and the messages in it are one text, of which the tokenizer reads special tokens. So
those that a message spells are pulled apart before the template sees it, by a character that is none,
and what the template then writes itself is told from them by its being whole. A copy of the tokenizer
knows the special tokens by names that nobody spells; it reads everything else as ever.
"""

import json
import re
from functools import cached_property

import numpy as np
import tokenizers

MARK = "\U0009fffe"  # noncharacters: no text holds them
NAME = "\U0009ffff"


class Spelled:
    """The special tokens of a tokenizer (`train.data.tokenizer`), apart from texts that spell them."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        added = tokenizer.raw.get_added_tokens_decoder()
        names = sorted((t.content for t in added.values() if t.special), key=len, reverse=True)
        self.names = {name: f"{NAME}{number}{NAME}" for number, name in enumerate(names) if name}
        self.names = self.names or {NAME: NAME}  # a tokenizer without any: no text holds this
        self.pattern = re.compile(f"(?:{'|'.join(map(re.escape, self.names))})(?!{MARK})")

    def within(self, value) -> bool:
        """Whether a text, or a text anywhere in plain data, spells a special token."""
        if isinstance(value, dict):
            return any(self.within(item) for item in value.values())
        if isinstance(value, (list, tuple)):
            return any(self.within(item) for item in value)
        return isinstance(value, str) and bool(self.pattern.search(value))

    def apart(self, value):
        """The same with marks inside what spells a special token; ValueError where one holds marks."""
        if isinstance(value, dict):
            return {key: self.apart(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.apart(item) for item in value]
        if not isinstance(value, str):
            return value
        if MARK in value or NAME in value:
            raise ValueError("a message holds a character that is no text")
        while self.pattern.search(value):
            value = self.pattern.sub(lambda found: found[0][0] + MARK + found[0][1:], value)
        return value

    def joined(self, text: str) -> str:
        """A text without its marks."""
        return text.replace(MARK, "")

    def renamed(self, text: str) -> str:
        """A text with marks for `raw`: whole special tokens by their other names, no marks."""
        return self.joined(self.pattern.sub(lambda found: self.names[found[0]], text))

    @cached_property
    def raw(self):
        """The tokenizer that reads `renamed` texts; its ids are to be looked up in `ids`."""
        contents = json.loads(self.tokenizer.raw.to_str())
        for token in contents["added_tokens"]:
            if token["special"] and token["content"]:
                token["content"], token["normalized"] = self.names[token["content"]], False
        contents["post_processor"] = None
        return tokenizers.Tokenizer.from_str(json.dumps(contents))

    @cached_property
    def ids(self) -> np.ndarray:
        """The tokenizer's id of each id of `raw`."""
        own = {name: self.tokenizer.raw.token_to_id(text) for text, name in self.names.items()}
        found = self.raw.get_vocab(with_added_tokens=True)
        table = np.arange(1 + max(found.values()), dtype=np.int32)
        for name, number in own.items():
            table[found[name]] = number
        return table

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text with marks: int32 [n]."""
        return self.ids[self.raw.encode(self.renamed(text), add_special_tokens=False).ids]
