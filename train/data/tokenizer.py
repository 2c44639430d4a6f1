"""One tokenizer class over every ``tokenizer.json``: ours, GPT-2's, or anybody's.

What is guaranteed: for the kinds trained here (byte, char, word, bpe, wordpiece, unigram) and for
the embedded GPT-2, ``decode(encode(text)) == text`` for every Unicode text (lone surrogates are
not text and are refused). A foreign ``tokenizer.json`` may normalise; then it round-trips as far as
its own rules do.
"""

import difflib
import json
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import tokenizers
import xxhash

from train.data import tokenizer_file, vocab

EMBEDDED = Path(__file__).parent / "embedded"
END = "<|endoftext|>"
ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
# What encoders' special tokens are called, where a tokenizer has a mask token and names no roles.
USUAL = {
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
}
CHUNK = 1 << 19


class Tokenizer:
    """Wraps a ``tokenizers.Tokenizer`` with the ids of its roles and a hash of its contents.

    Attributes: ``raw`` the wrapped object, ``kind`` one of ``vocab.KINDS``, "gpt2" or "file",
    ``vocab`` the number of ids (largest id + 1), one id or -1 for each of ``ROLES``,
    ``chat_template`` a jinja2 source or "".
    """

    def __init__(self, raw, kind="file", chat_template="", **roles):
        unknown = set(roles) - set(ROLES)
        if unknown:
            raise ValueError(f"unknown role of a special token: {sorted(unknown)}, not in {ROLES}")
        raw.no_truncation()
        raw.no_padding()
        self.raw = raw
        self.kind = kind
        self.chat_template = chat_template
        self.vocab = 1 + max(raw.get_vocab(with_added_tokens=True).values(), default=-1)
        for role in ROLES:
            setattr(self, role, self._id(role, roles.get(role, -1)))
        found = {role: self._usual(names) for role, names in USUAL.items()}
        if found["mask"] >= 0:
            for role, index in found.items():
                setattr(self, role, index if getattr(self, role) < 0 else getattr(self, role))

    def _usual(self, names) -> int:
        found = (self.raw.token_to_id(name) for name in names)
        return next((index for index in found if index is not None), -1)

    def _id(self, role, token):
        if isinstance(token, str):
            found = self.raw.token_to_id(token)
            if found is None:
                raise ValueError(f"the {role} token {token!r} is not in the vocabulary")
            return found
        if not -1 <= int(token) < self.vocab:
            raise ValueError(f"the {role} id {token} is not in the vocabulary of {self.vocab}")
        return int(token)

    @classmethod
    def wrap(cls, /, raw, kind="file", chat_template="", **roles):
        """Wraps a raw tokenizer; roles are ids (-1 for none) or the tokens' text."""
        return cls(raw, kind, chat_template, **roles)

    @cached_property
    def hash(self) -> str:
        """The xxh3-128 of the canonical JSON: equal vocabularies and rules have equal hashes.

        Scores count to six digits, since the library's own JSON reader may be an ulp off.
        """
        contents = json.loads(self.raw.to_str(), parse_float=lambda text: f"{float(text):.6g}")
        text = json.dumps(contents, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))

    @property
    def exact(self) -> bool:
        """True if decode(encode(text)) == text is guaranteed, and texts may be cut at lines."""
        return self.kind != "file"

    @cached_property
    def plain(self):
        """The same tokenizer, but reading special tokens in the text as ordinary characters."""
        copy = tokenizers.Tokenizer.from_str(self.raw.to_str())
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _table(self):
        """For kind char: id by code point (-1: not a piece), so that encoding is one look-up."""
        table = np.full(0x110000, -1, np.int32)
        for piece, index in self.raw.get_vocab(with_added_tokens=False).items():
            if len(piece) == 1:
                table[ord(piece)] = index
        return table

    def encode(self, text: str, special: bool = True) -> np.ndarray:
        """Returns the ids of ``text`` as int32 [n]; nothing is added in front or behind.

        ``special``: whether special tokens written out in the text become their ids (needed for
        chat templates). Training texts are read with ``special=False``: a document that mentions
        ``<|endoftext|>`` does not end there.
        """
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts, special: bool = True) -> list[np.ndarray]:
        """Encodes several texts at once (in parallel where the library may), each as int32 [n]."""
        for number, text in enumerate(texts):
            tokenizer_file.unicode(text, f"text {number}")
        if not special and self.kind in ("char", "byte"):
            return [self._encode_units(text) for text in texts]
        raw = self.raw if special else self.plain
        cut = _cut if self.exact else lambda text: [text]
        pieces = [cut(text) for text in texts]
        flat = [piece for parts in pieces for piece in parts]
        try:
            encodings = raw.encode_batch_fast(flat, add_special_tokens=False)
        except Exception as error:  # the library's own: a word that a foreign vocabulary lacks
            raise ValueError(
                f"this tokenizer ({self.kind}) cannot encode a text: {error}"
            ) from error
        ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
        if len(flat) == len(texts):
            return ids
        result, start = [], 0
        for parts in pieces:
            result.append(np.concatenate(ids[start : start + len(parts)]))
            start += len(parts)
        return result

    def _encode_units(self, text):
        """Encodes for kinds whose units are bytes or characters: the same ids by a table."""
        if self.kind == "byte":
            return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        ids = self._table[points]
        unseen = np.flatnonzero(ids < 0)
        if not unseen.size:
            return ids
        parts, start = [], 0
        for index in unseen:
            spelt = chr(points[index]).encode("utf-8")
            parts += [ids[start:index], np.frombuffer(spelt, np.uint8).astype(np.int32)]
            start = index + 1
        return np.concatenate([*parts, ids[start:]])

    def decode(self, ids, skip_special: bool = False) -> str:
        """Returns the text of ``ids``; incomplete UTF-8 at an edge becomes U+FFFD."""
        ids = np.asarray(ids).reshape(-1)
        if ids.size and not (0 <= ids.min() and ids.max() < self.vocab):
            raise ValueError(
                f"token ids {ids.min()}..{ids.max()} are outside the vocabulary of {self.vocab}"
            )
        return self.raw.decode(ids.tolist(), skip_special_tokens=skip_special)

    def save(self, folder) -> None:
        """Writes ``tokenizer.json`` and ``tokenizer_config.json`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "kind": self.kind}
        for role in ROLES:
            if getattr(self, role) >= 0:
                config[role + "_token"] = self.raw.id_to_token(getattr(self, role))
        if self.chat_template:
            config["chat_template"] = self.chat_template
        (folder / "tokenizer.json").write_text(self.raw.to_str(), encoding="utf-8")
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path) -> "Tokenizer":
        """Reads a folder with ``tokenizer.json`` (and its config if there), or the file itself.

        Raises FileNotFoundError, or ValueError for a file that is not a tokenizer or is absurd.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {path}: expected a tokenizer.json there")
        raw = tokenizer_file.parse(file)
        config_file = file.parent / "tokenizer_config.json"
        config = (
            tokenizer_file.read_json(config_file, tokenizer_file.CONFIG_LIMIT)
            if config_file.is_file()
            else {}
        )
        if not isinstance(config, dict):
            raise ValueError(f"{config_file} is not a JSON object")
        roles = {role: tokenizer_file.role(raw, config.get(role + "_token")) for role in ROLES}
        template = tokenizer_file.template(config.get("chat_template"))
        beside = file.parent / "chat_template.jinja"
        if not template and beside.is_file() and beside.stat().st_size < 1 << 20:
            template = beside.read_text(encoding="utf-8")
        kind = config.get("kind") if config.get("kind") in (*vocab.KINDS, "gpt2") else "file"
        return cls(raw, kind, template, **roles)


def _cut(text):
    """Cuts a long text after a newline between two characters that are not white space.

    Every pre-tokeniser of ours separates such a newline from both neighbours, so the ids of the
    parts are the ids of the whole.
    """
    parts, start = [], 0
    while len(text) - start > 2 * CHUNK:
        at = start + CHUNK
        while True:
            at = text.find("\n", at)
            if at < 0 or at + 1 >= len(text):
                return [*parts, text[start:]]
            at += 1
            if not text[at - 2].isspace() and not text[at].isspace():
                break
        parts.append(text[start:at])
        start = at
    return [*parts, text[start:]]


def train(kind: str, texts, size: int = 0, specials=(END,), **roles) -> Tokenizer:
    """Trains a vocabulary of ``size`` entries in all, specials included.

    ``size`` 0: the kind's default (all characters seen, for char); a corpus too small for ``size``
    gives fewer. ``roles`` name the specials by role; by default the first is both bos and eos.
    """
    if kind not in vocab.TRAINERS:
        near = difflib.get_close_matches(kind, vocab.KINDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown kind of tokenizer {kind!r}, not in {vocab.KINDS}{hint}")
    size = size or vocab.DEFAULT_SIZES.get(kind, 0)
    # In parts the library takes a tenth of the memory, and counts the same.
    raw = vocab.TRAINERS[kind]([part for text in texts for part in _cut(text)], size, specials)
    if not roles and specials:
        roles = {"bos": specials[0], "eos": specials[0]}
    return Tokenizer(raw, kind, **roles)


@lru_cache(maxsize=1)
def gpt2() -> Tokenizer:
    """Returns GPT-2's own byte-level BPE (50,257 ids) from the embedded vocabulary and merges."""
    folder = EMBEDDED / "gpt2_bpe"
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines[1:] if line]
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    raw.add_special_tokens([END])
    return Tokenizer(raw, "gpt2", bos=END, eos=END)


def encoder_specials(kind: str) -> dict:
    """{role: token} of an encoder's tokenizer: RoBERTa's names for byte-level BPE, else BERT's."""
    which = 1 if kind == "bpe" else 0
    unknown = ("[UNK]", "<unk>")[which]
    return {**{role: names[which] for role, names in USUAL.items()}, "unk": unknown}


def named(spec: str, texts=(), encoder: bool = False) -> Tokenizer:
    """Returns the tokenizer that a config's string names.

    "gpt2", "byte", a kind ("char", "bpe:4096": trained on ``texts``, an iterable of str or a
    function that gives one), or the path of a folder or tokenizer.json. A tokenizer that is
    trained here gets an ``encoder``'s special tokens instead of end-of-text.
    """
    if spec == "gpt2":
        return gpt2()
    kind, _, size = spec.partition(":")
    if kind in vocab.TRAINERS and not Path(spec).exists():
        if size and not (size.isdecimal() and 0 < int(size) <= tokenizer_file.VOCAB_LIMIT):
            raise ValueError(f"tokenizer {spec!r}: {size!r} is not a vocabulary size")
        roles = encoder_specials(kind) if encoder else {}
        specials = tuple(roles.values()) or (END,)
        texts = () if kind == "byte" else texts() if callable(texts) else texts
        return train(kind, texts, int(size or 0), specials, **roles)
    if Path(spec).exists():
        return Tokenizer.load(spec)
    near = difflib.get_close_matches(kind, (*vocab.KINDS, "gpt2"), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"unknown tokenizer {spec!r}: neither 'gpt2', a kind such as 'char' or 'bpe:4096', "
        f"nor an existing path{hint}"
    )
