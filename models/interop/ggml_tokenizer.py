"""The tokenizer inside a GGUF file, as a `tokenizers.Tokenizer`.

Byte-level BPE only ("gpt2" in the file's words). The way text is cut before merging is not in the
file, only its name: the ones known here are `SPLITS`. Where a file does not say whether texts begin
with BOS, that name does, as in llama.cpp: LLaMA 3's do.
"""

from collections.abc import Mapping

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL, _USER = 3, 4


def _gpt2():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits():
    """Every digit apart, then GPT-2's words."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3():
    split = pre_tokenizers.Split(Regex(_LLAMA3), "isolated", invert=False)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, plain])


SPLITS = {
    "default": _gpt2, "gpt-2": _gpt2, "smollm": _digits, "starcoder": _digits, "refact": _digits,
    "llama-bpe": _llama3, "llama3": _llama3, "llama-v3": _llama3,
}  # fmt: skip


def build(fields: Mapping) -> Tokenizer | None:
    """The tokenizer, or None for a file that has none or one that is not byte-level BPE.

    Raises ValueError naming the field where the file has one that is malformed or cut in a way
    that is not known here.
    """
    if fields.get("tokenizer.ggml.model") != "gpt2":
        return None
    split = fields.get("tokenizer.ggml.pre", "default")
    if not isinstance(split, str) or split not in SPLITS:
        raise ValueError(
            f"tokenizer.ggml.pre is {split!r:.80}; supported are {', '.join(sorted(SPLITS))}"
        )
    tokens, merges = (fields.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "merges"))
    for name, found in (("tokens", tokens), ("merges", merges)):
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise ValueError(f"tokenizer.ggml.{name} is not a list of strings")
    kinds = fields.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(kinds, list):
        raise ValueError("tokenizer.ggml.token_type is not a list")
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if len(vocab) != len(tokens) or len(kinds) != len(tokens):
        raise ValueError("tokenizer.ggml.tokens names a token twice or has no type for each")
    wrong = next((p for p in pairs if len(p) != 2 or "".join(p) not in vocab), None)
    if wrong is not None:
        raise ValueError(f"tokenizer.ggml.merges has {' '.join(wrong)!r:.60}, which makes no token")
    llama3 = SPLITS[split] is _llama3
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=llama3))
    tokenizer.pre_tokenizer = SPLITS[split]()
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    user = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _USER]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in user])
    first = fields.get("tokenizer.ggml.bos_token_id")
    if fields.get("tokenizer.ggml.add_bos_token", llama3) is True and type(first) is int:
        if 0 <= first < len(tokens):
            begin = tokens[first]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=[begin, "$A"], pair=[begin, "$A", "$B"], special_tokens=[(begin, first)]
            )
    return tokenizer


def special(fields: Mapping, vocab: int) -> dict:
    """{bos, eos, pad, unk: id or -1}. ValueError for an id beyond the vocabulary."""
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    found = {}
    for role, name in names.items():
        value = fields.get(f"tokenizer.ggml.{name}_token_id", -1)
        if type(value) is not int or not -1 <= value < vocab:
            raise ValueError(
                f"tokenizer.ggml.{name}_token_id is {value!r:.40}, beyond {vocab} tokens"
            )
        found[role] = value
    return found
