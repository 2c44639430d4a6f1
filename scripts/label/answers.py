"""The answers that are judged: sampled once, and kept with what they were made from.

The file beside the labels begins with {"made": {...}, "items": how many}; each further line is an item
{"id", "prompt", "answers", "ended"}: `ended` says which answers reached their end, and were not cut off by
`--max_new_tokens`. A file of an earlier version has no such first line; it may hold chats as JSON text
(`talk`).
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from scripts.label import files
from scripts.label import store as label_store

DEFAULTS = {"answers": 4, "max_new_tokens": 64, "temperature": 1.0, "seed": 0}
ROWS = 256  # answers that are sampled at a time


def beside(labels) -> Path:
    """Where the answers that are judged are kept."""
    return Path(f"{labels}.answers.jsonl")


def sampled(a) -> list:
    """The items to judge: those of an earlier session, or freshly sampled ones, kept on disk.

    A prompt gets `--answers` answers, of which empty ones and repeats are left out: an item has from 2 to
    `--answers` of them, and a prompt with fewer than 2 makes no item. How many prompts that befell is said
    on stderr. ValueError where neither is at hand, the kept answers are torn or were made from something
    else, a prompt is empty or stands there twice, or every prompt was left out.
    """
    path = beside(a.labels)
    if path.is_file():
        return kept(path, a)
    if not a.prompts or not a.source:
        raise ValueError(f"no answers to judge at {path}; give --prompts and --from to sample some")
    asked = request(a)
    if not label_store.LEAST <= asked["answers"] <= label_store.MOST:
        raise ValueError(
            f"--answers {asked['answers']}: expected {label_store.LEAST} to {label_store.MOST}"
        )
    found, items, few = read_prompts(a), [], 0
    for prompt, said in zip(found, written(a, found), strict=True):
        ended = {}
        for text, end in said:
            if text.strip():
                ended[text] = bool(end) or ended.get(text, False)
        texts = list(ended)
        few += len(texts) < asked["answers"]
        if len(texts) > 1:
            name = label_store.identity(prompt.text, texts)
            row = {"id": name, "prompt": prompt.text, "answers": texts}
            items.append({**row, "ended": list(ended.values())})
    if few:
        print(
            f"{few} of {len(found)} prompts have fewer than {asked['answers']} distinct answers; "
            f"{len(found) - len(items)} of them have fewer than 2, and are left out",
            file=sys.stderr,
        )
    if not items:
        raise ValueError("every prompt got one and the same answer; raise --temperature")
    files.write(path, [{"made": asked, "items": len(items)}, *items])
    return items


def request(a) -> dict:
    """What answers are made from, by the options' names; defaults stand for what was not given."""
    given = {name: getattr(a, name) for name in DEFAULTS}
    made = {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
    made |= {"prompts": place(a.prompts), "from": place(a.source), "chat": a.chat}
    if a.prompts and Path(a.prompts).is_file():
        made["sha256"] = hashlib.sha256(Path(a.prompts).read_bytes()).hexdigest()
    return made


def place(name):
    """A path in full where there is one, so that it says the same from another folder."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _fields(row) -> dict:
    if "made" in row:
        return {
            "made": "" if isinstance(row["made"], dict) else "an object",
            "items": "" if type(row.get("items")) is int else "a whole number",
        }
    return label_store.item_fields(row)


def kept(path, a) -> list:
    """The items of a file of answers; ValueError where it is torn, or made from something else."""
    rows, torn = files.rows(path, _fields)
    again = f"remove {path} to sample anew, or bring back the whole file"
    if torn:
        raise ValueError(f"{path}: the last line is torn, so that answers are missing; {again}")
    rows = [row for _, row in rows]
    head = rows.pop(0) if rows and "made" in rows[0] else None
    if any("made" in row for row in rows):
        raise ValueError(f"{path} says twice what it was made from; expected that in line 1 alone")
    if not rows or (head and head["items"] != len(rows)):
        expected = head["items"] if head else "at least 1"
        raise ValueError(f"{path} has {len(rows)} items; expected {expected}; {again}")
    if len({row["id"] for row in rows}) < len(rows):
        raise ValueError(f"{path} holds an item twice; expected each id once")
    if head:
        same(path, head["made"], a)
        return rows
    return [{**row, "prompt": talk(row["prompt"])} for row in rows]


def headed(labels) -> bool:
    """Whether the answers beside some labels say what they were made from, as all but the oldest do."""
    path = beside(labels)
    return path.is_file() and b'"made"' in path.read_bytes().partition(b"\n")[0]


def talk(prompt):
    """A chat's messages where a prompt is the JSON text of some, as the oldest files have it."""
    from train.data import chat

    if not isinstance(prompt, str) or not prompt.startswith("[{"):
        return prompt
    try:
        return chat.check(json.loads(prompt))
    except (ValueError, RecursionError):
        return prompt


def same(path, made, a):
    """ValueError where a command asks for other answers than those that a file holds.

    What was not given is not compared, unless --prompts or --from asks for answers: then its default is.
    """
    asked = request(a)
    whole = bool(a.prompts or a.source)
    given = {name for name in DEFAULTS if getattr(a, name) is not None}
    given |= set(DEFAULTS) | {"chat"} if whole else set()
    given |= {name for name, value in (("prompts", a.prompts), ("from", a.source)) if value}
    given |= {"chat"} if a.chat else set()
    other = f"give the same, or other --labels for new answers ({path})"
    if "prompts" in given and asked.get("sha256") and made.get("sha256"):
        given.discard("prompts")
        if asked["sha256"] != made["sha256"]:
            raise ValueError(
                f"the answers were made with --prompts {made.get('prompts')}, and {a.prompts} says "
                f"other things now; {other}"
            )
    for name in sorted(given & made.keys()):
        if asked[name] != made[name]:
            raise ValueError(
                f"the answers were made with {spoken(name, made[name])}, not "
                f"{spoken(name, asked[name])}; {other}"
            )


def spoken(name: str, value) -> str:
    """An option as it is written on a command line."""
    if name == "chat":
        return "--chat" if value else "no --chat"
    return f"--{name} {value}"


def read_prompts(a) -> list:
    """The prompts of `--prompts`; ValueError names a row that is empty, repeated, or a chat that is
    malformed or stands there without `--chat`."""
    from train.data import chat, prompts, tables

    table = tables.read(a.prompts)
    found = prompts.read(table, {"data": {}})
    for number, prompt in enumerate(found):
        if isinstance(prompt.text, str):
            continue
        if not a.chat:
            raise ValueError(
                f"{table.where(number)}: the prompt is a list of messages; expected text, or --chat, "
                "by which the model's own chat template renders messages"
            )
        try:
            chat.check(prompt.text)
        except ValueError as error:
            raise ValueError(f"{table.where(number)}: {error}") from None
    return found


def written(a, found) -> list:
    """[(text, whether it reached its end)] of each prompt's answers, as many as were asked for.

    ROWS of them are sampled at a time: an answer is a function of its prompt and its seed alone.
    """
    from models import prompts as padding
    from models import streaming
    from models.settings import Settings
    from scripts import sample
    from train.data import chat

    asked, source = request(a), sample.load(a.source)
    talk = lambda text: [{"role": "user", "content": text}] if isinstance(text, str) else text
    encode = (
        (lambda p: source.encode_chat(talk(p.text))) if a.chat else lambda p: source.encode(p.text)
    )
    turn, stop = chat.turn_ends(source.tokenizer) if a.chat else ((), ())
    count = asked["answers"]
    settings = Settings(
        max_new_tokens=asked["max_new_tokens"], temperature=asked["temperature"],
        eos=tuple({*source.ends, *turn}), stop=stop, pad=source.tokenizer.pad,
        suppress=source.unused, num_return_sequences=count,
    )  # fmt: skip
    ids = [encode(prompt) for prompt in found]
    tokens, mask = padding.left_pad(ids, settings.fill, sample.MULTIPLE, source.model.o.context)
    seeds = sample.seeds(asked["seed"], len(ids))
    size, made = max(1, min(ROWS // count, len(ids))), []
    for start in range(0, len(ids), size):
        part = np.arange(start, start + size) % len(ids)  # the last one filled up: one shape
        out, texts = streaming.generate(
            source.model, source.variables, tokens[part], mask[part], settings, source.decode,
            seeds[part],
        )  # fmt: skip
        both = list(zip(texts, np.asarray(out.stopped).tolist(), strict=True))
        made += [both[n : n + count] for n in range(0, len(both), count)]
        if len(ids) > size:
            print(f"{min(start + size, len(ids))} of {len(ids)} prompts answered", file=sys.stderr)
    return made[: len(ids)]
