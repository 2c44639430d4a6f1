"""The tokenizer of a reference folder, its special ids and its chat template: read and written.

Our loops put [CLS], [SEP] and the end of a text around it themselves, so that our tokenizers add
nothing. The reference's users call the tokenizer alone: what is written adds what the model was
trained with.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import tokenizers

from models.interop import untrusted
from models.options import Options

ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
ENCODERS = ("cls", "sep", "mask")  # in `special` only where there are such
TOKENIZER_BYTES = 64 * 2**20


def read_tokenizer(folder: Path, c: Mapping) -> tuple:
    """(tokenizer or None, special ids, chat template) of a reference folder."""
    file, tokenizer = folder / "tokenizer.json", None
    if file.is_file():
        if file.stat().st_size > TOKENIZER_BYTES:
            raise ValueError(f"{file} has more than {TOKENIZER_BYTES:,} bytes")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file} is not a tokenizer: {error}") from None
    side = folder / "tokenizer_config.json"
    named = untrusted.read_json(side) if side.is_file() else {}
    special = {role: _special(role, named, c, tokenizer) for role in ROLES}
    special = {role: i for role, i in special.items() if i >= 0 or role not in ENCODERS}
    template = named.get("chat_template") or ""
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(template, list):  # several named ones; the default is theirs, too
        template = next((t.get("template", "") for t in template if t.get("name") == "default"), "")
    return tokenizer, special, template if isinstance(template, str) else ""


def _special(role, named, c, tokenizer):
    token = named.get(f"{role}_token")
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str) and tokenizer is not None:
        found = tokenizer.token_to_id(token)
        if found is not None:
            return found
    found = c.get(f"{role}_token_id")
    found = found[0] if isinstance(found, list) and found else found
    return found if type(found) is int and found >= 0 else -1


def write_tokenizer(folder: Path, raw, special: Mapping, template: str, o: Options) -> None:
    """Writes tokenizer.json and tokenizer_config.json of a model with options `o`.

    raw: a `tokenizers.Tokenizer`, which is not changed; special: ids by role, -1 for none. An
    encoder-decoder's texts are padded with their end where there is no padding, as in training.
    """
    known = {role: special.get(role, -1) for role in ROLES}
    if o.kind == "encdec" and known["pad"] < 0:
        known["pad"] = known["eos"]
    named = {role: raw.id_to_token(index) for role, index in known.items() if index >= 0}
    framed(raw, named, o).save(str(folder / "tokenizer.json"))
    side = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": o.context}
    types = ["token_type_ids"] if o.kind == "encoder" and o.token_types > 1 else []
    side["model_input_names"] = ["input_ids", *types, "attention_mask"]
    side |= {f"{role}_token": token for role, token in named.items()}
    if template:
        side["chat_template"] = template
    text = json.dumps(side, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def framed(raw, named: Mapping, o: Options) -> tokenizers.Tokenizer:
    """The tokenizer; where it adds nothing by itself, one that adds what our loops add.

    named: special tokens by role. An encoder's text is [CLS] A [SEP] (a pair: and B [SEP], of type 1;
    RoBERTa's with two separators between), an encoder-decoder's ends with its end.
    """
    if len(raw.encode("").ids) or len(raw.encode("", "").ids):
        return raw
    first, last = named.get("cls"), named.get("sep")
    if o.kind == "encoder" and o.positions != "relative" and first and last:
        between = [last] if first == "<s>" else []
        single = [first, "$A", last]
        pair, special = [*single, *between, "$B:1", f"{last}:1"], [first, last]
    elif named.get("eos") and (o.kind == "encdec" or o.positions == "relative"):
        last = named["eos"]
        single, pair, special = ["$A", last], ["$A", last, "$B", last], [last]
    else:
        return raw
    copy, ids = tokenizers.Tokenizer.from_str(raw.to_str()), raw.token_to_id
    added = tokenizers.processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, ids(token)) for token in special]
    )
    if copy.post_processor is not None:
        added = tokenizers.processors.Sequence([copy.post_processor, added])
    copy.post_processor = added
    return copy
