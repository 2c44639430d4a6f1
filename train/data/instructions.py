"""Instructions and chats as rows of tokens, of which an answer's are trained.

`config.data.train` (and `valid`, or `valid_share` of the prompts) is a table (`train.data.tables`):

    messages              [{"role", "content"}, ...]: chats, by a chat template
    prompt, completion    text; with a template the prompt is a user's message, without one a row is
                          [bos] prompt completion eos

The names of the columns may be others (`data.prompt`, `data.completion`, `data.messages`). An
answer's tokens are trained, its end of turn among them; `data.loss` "all" trains prompts as well.
A template writes its own bos, so that none is added to what it rendered.
"""

import numpy as np

from train.data import answers, chat, labelled
from train.data.opening import get
from train.data.tables import Table, read

LOSSES = ("completion", "all")


class Dialogue:
    """How a tokenizer and a template (or "") spell prompts and answers.

    ValueError where the tokenizer has no end-of-text token, which ends an answer.
    """

    def __init__(self, tokenizer, template: str = ""):
        self.tokenizer, self.template = tokenizer, template
        self.bos, self.eos = chat.edges(tokenizer)
        if tokenizer.eos < 0:
            raise ValueError("the tokenizer has no end-of-text token, which ends an answer")

    def prompt(self, prompt) -> np.ndarray:
        """The ids that an answer follows: int32 [n]; prompt is text or a list of messages."""
        if self.template:
            return self.tokenizer.encode(self._render(self._messages(prompt), True))
        if not isinstance(prompt, str):
            raise ValueError("a prompt of messages needs a chat template; give data.template")
        begin = [self.tokenizer.bos] if self.tokenizer.bos >= 0 else []
        ids = np.concatenate([begin, self.tokenizer.encode(prompt, special=False)])
        if not len(ids):
            raise ValueError("a prompt has no token, and the tokenizer no beginning-of-text")
        return ids.astype(np.int32)

    def answered(self, prompt, answer: str) -> tuple:
        """(tokens, trained) of a prompt and its answer, the end of turn included."""
        if self.template:
            messages = self._messages(prompt) + [{"role": "assistant", "content": answer}]
            return self.chat(messages, last=True)
        begin = self.prompt(prompt)
        ids = [*self.tokenizer.encode(answer, special=False), self.tokenizer.eos]
        return _join([(begin, False), (ids, True)])

    def chat(self, messages, last: bool = False) -> tuple:
        """(tokens, trained) of a chat: every assistant's turn, or the `last` alone."""
        if not self.template:
            raise ValueError("a chat needs a template; give data.template")
        text, _ = chat.render_spans(self.template, messages, self.bos, self.eos)
        spans = self._spans(messages, text)
        return self._split(text, spans[-1:] if last else spans)

    def _messages(self, prompt) -> list:
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)

    def _render(self, messages, prompt: bool) -> str:
        return chat.render(self.template, messages, self.bos, self.eos, prompt)

    def _spans(self, messages, text) -> list:
        """(start, end) characters of what the assistant wrote, with its end of turn.

        A turn begins where the prompt before it ends, and ends where the tags say, or where the next
        message begins. ValueError where a prompt does not begin the whole, or a turn lacks its end.
        """
        _, tagged = chat.render_spans(self.template, messages, self.bos, self.eos)
        turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise ValueError("a chat has no assistant's message to train on")
        spans = []
        for number, turn in enumerate(turns):
            before = self._render(messages[:turn], True) if turn else ""
            until = self._render(messages[: turn + 1], False)
            if not text.startswith(before) or not text.startswith(until):
                raise ValueError(
                    "the chat template renders a prompt that does not begin the whole chat, so that "
                    f"an answer would follow another text than in training (message {turn})"
                )
            start, end = len(before), len(until)
            if len(tagged) == len(turns):
                end = tagged[number][1]
            said = text[start:end].strip()
            if said == str(messages[turn]["content"]).strip() and end < len(until):
                raise ValueError(
                    "the chat template's generation tags leave out the end of turn, which would "
                    f"never be trained (message {turn})"
                )
            spans.append((start, end))
        return spans

    def _split(self, text, spans) -> tuple:
        """Tokens of a text, trained where they begin inside a span.

        Our own kinds of tokenizer read the parts one by one, as generation does; of a foreign one
        the whole is read, since it may add a blank in front of each.
        """
        if self.tokenizer.exact:
            parts, at = [], 0
            for start, end in spans:
                parts += [(text[at:start], False), (text[start:end], True)]
                at = end
            parts.append((text[at:], False))
            return _join([(self.tokenizer.encode(part), on) for part, on in parts if part])
        found = self.tokenizer.raw.encode(text, add_special_tokens=False)
        inside = lambda at: any(start <= at < end for start, end in spans)
        trained = [inside(max(begin, stop - 1)) for begin, stop in found.offsets]
        return np.asarray(found.ids, np.int32), np.asarray(trained, bool)


def _join(parts) -> tuple:
    ids = [np.asarray(part, np.int32) for part, _ in parts]
    trained = [np.full(len(part), on) for part, (_, on) in zip(ids, parts, strict=True)]
    return np.concatenate(ids), np.concatenate(trained)


def texts(table: Table, config) -> list:
    """("chat", messages) or ("pair", prompt, completion) of each row; ValueError names a bad row."""
    name = lambda field: get(config, f"data.{field}", field)
    if name("messages") in table.columns:
        column = table.column(name("messages"), (list,))
        for number, messages in enumerate(column):
            try:
                chat.check(messages)
            except ValueError as error:
                raise ValueError(f"{table.where(number)}: {error}") from None
        return [("chat", messages) for messages in column]
    both = [table.column(name(field), (str, list)) for field in ("prompt", "completion")]
    for number, completion in enumerate(both[1]):
        if not isinstance(completion, str) or not completion.strip():
            raise ValueError(f"{table.where(number)}: the completion is empty; expected text")
    return [("pair", *row) for row in zip(*both, strict=True)]


def blank(prompt) -> bool:
    """Whether a prompt, text or messages, asks nothing."""
    parts = [prompt] if isinstance(prompt, str) else [_content(message) for message in prompt]
    return not any(part.strip() for part in parts)


def _content(message) -> str:
    found = message.get("content") if isinstance(message, dict) else message
    return found if isinstance(found, str) else str(found or "")


def keys(found) -> list:
    """What keeps rows on one side of a split: the prompt, or a chat's first message by a user."""
    first = lambda messages: next(
        (m.get("content") for m in messages if m.get("role") != "system"), ""
    )
    return [
        labelled.plain(row[1] if isinstance(row[1], str) else f"{first(row[1])}") for row in found
    ]


def open_parts(config, read_rows=texts, key=keys) -> dict:
    """{"train": rows, "valid": rows}: `data.valid`, or `data.valid_share` cut off by the rows' keys."""
    source, other = get(config, "data.train", ""), get(config, "data.valid", "")
    share = float(get(config, "data.valid_share", 0.0))
    if other and share:
        raise ValueError("config.data has both valid and valid_share; give one of them")
    rows = read_rows(read(source), config)
    if other:
        return {"train": rows, "valid": read_rows(read(other), config)}
    if not share:
        return {"train": rows}
    cut = labelled.split(key(rows), {"valid": share})
    return {part: [rows[n] for n in cut[part]] for part in ("train", "valid")}


def encode(found, dialogue: Dialogue, config) -> tuple[list, int, int]:
    """(rows that fit `config.length`, how many were cut, how many were left out)."""
    how = get(config, "data.loss", "completion")
    if how not in LOSSES:
        raise ValueError(f"config.data.loss is {how!r}; expected {' or '.join(LOSSES)}")
    rows = [
        dialogue.chat(row[1]) if row[0] == "chat" else dialogue.answered(*row[1:]) for row in found
    ]
    if how == "all":
        rows = [(tokens, np.ones(len(tokens), bool)) for tokens, _ in rows]
    return answers.cut(rows, int(config.length), bool(get(config, "data.truncate", False)))


def plain_texts(found) -> list:
    """Every text of some rows, for a tokenizer that is trained on them."""
    out = set()
    for row in found:
        for part in row[1:]:
            out |= {part} if isinstance(part, str) else {f"{m.get('content', '')}" for m in part}
    return sorted(out)
