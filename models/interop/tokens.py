"""The tokenizer of a reference folder, its special ids and its chat template."""

from collections.abc import Mapping
from pathlib import Path

import tokenizers

from models.interop import untrusted

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
    special = {role: _special(role, named, c, tokenizer) for role in ("bos", "eos", "pad", "unk")}
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
