"""Reading tokenizer files and texts that may come from anybody: checked before use."""

import json

import tokenizers

FILE_LIMIT = 64 << 20
CONFIG_LIMIT = 8 << 20
VOCAB_LIMIT = 4_000_000
PIECE_LIMIT = 100_000


def role(raw, token) -> int:
    """Reads a role as config files spell it: a string, or an object with "content"."""
    text = token.get("content") if isinstance(token, dict) else token
    found = raw.token_to_id(text) if isinstance(text, str) else None
    return -1 if found is None else found


def template(stated) -> str:
    """Reads a chat template as config files spell it: a string, or a list of named ones; else ""."""
    if isinstance(stated, list):
        named = [entry for entry in stated if isinstance(entry, dict)]
        stated = next((t.get("template") for t in named if t.get("name") == "default"), "")
    return stated if isinstance(stated, str) else ""


def read_json(file, limit: int):
    """Parses a JSON file of at most ``limit`` bytes; ValueError names the file otherwise."""
    size = file.stat().st_size
    if size > limit:
        raise ValueError(f"{file} has {size:,} bytes, more than the {limit:,} that are read")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{file} is not valid JSON: {reason}") from error


def parse(file) -> tokenizers.Tokenizer:
    """Checks a tokenizer.json for absurd sizes in Python before the library builds it."""
    contents = read_json(file, FILE_LIMIT)
    model = contents.get("model") if isinstance(contents, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise ValueError(f"{file} is not a tokenizer.json: it has no model with a vocab")
    words = model["vocab"]
    added = contents.get("added_tokens") or []
    merges = model.get("merges") or []
    for name, part in (("vocabulary", words), ("added tokens", added), ("merges", merges)):
        if not isinstance(part, (dict, list)) or len(part) > VOCAB_LIMIT:
            raise ValueError(f"{file}: {name} of more than {VOCAB_LIMIT:,} entries, or no list")
    ids = list(words.values()) if isinstance(words, dict) else list(range(len(words)))
    ids += [token.get("id") if isinstance(token, dict) else None for token in added]
    for index in ids:
        if type(index) is not int or not 0 <= index < VOCAB_LIMIT:
            raise ValueError(f"{file}: token id {index!r}, not an integer below {VOCAB_LIMIT:,}")
    if isinstance(words, list) and not all(isinstance(entry, list) and entry for entry in words):
        raise ValueError(f"{file}: a vocabulary that is a list holds [piece, score] alone")
    pieces = words if isinstance(words, dict) else [entry[0] for entry in words]
    longest = max((len(piece) for piece in pieces if isinstance(piece, str)), default=0)
    if longest > PIECE_LIMIT:
        raise ValueError(f"{file}: a token of {longest:,} characters (at most {PIECE_LIMIT:,})")
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(contents))
    except BaseException as error:  # a panic of the library is not an Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ValueError(f"{file} is not a tokenizer that can be built: {error}") from error


def unicode(text: str, name: str) -> str:
    """The text; ValueError, with its name, for a lone surrogate: what bytes that are no UTF-8 become."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        fault = f"a lone surrogate at character {error.start}"
        raise ValueError(f"{name} is not Unicode: {fault}") from error
    return text
