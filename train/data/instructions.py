"""Instructions and chats as rows of tokens, of which an answer's are trained.

`config.data.train` (and `valid`, or `valid_share` of the prompts) is a table (`train.data.tables`):

    messages              [{"role", "content"}, ...]: chats, by a chat template
    prompt, completion    text; with a template the prompt is a user's message, without one a row is
                          [bos] prompt completion eos

The names of the columns may be others (`data.prompt`, `data.completion`, `data.messages`). An
answer's tokens are trained, its end of turn among them; `data.loss` "all" trains prompts as well.
A template writes its own bos, so that none is added to what it rendered. What a message spells is
text, also where a template writes the same as a control token (`train.data.spelled`).
"""

import numpy as np

from train.data import answers, chat, labelled
from train.data.opening import get
from train.data.spelled import Spelled
from train.data.tables import Table, read

LOSSES = ("completion", "all")
ROLES = ("system", "user", "assistant", "tool")
PROBE = "\U0008fffe"  # a noncharacter, in the place of what an assistant said


class Dialogue:
    """How a tokenizer and a template (or "") spell prompts and answers.

    ValueError where the tokenizer has no end-of-text token, which ends an answer.
    """

    def __init__(self, tokenizer, template: str = ""):
        self.tokenizer, self.template = tokenizer, template
        self.spelled = Spelled(tokenizer)
        self.bos, self.eos = chat.edges(tokenizer)
        if tokenizer.eos < 0:
            raise ValueError("the tokenizer has no end-of-text token, which ends an answer")

    def prompt(self, prompt) -> np.ndarray:
        """The ids that an answer follows: int32 [n]; prompt is text or a list of messages."""
        if self.template:
            messages = self._messages(prompt)
            own = self._apart(messages, True)
            return self._encode(self._render(own, True), own is not messages)
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
        messages = self._messages(messages)
        own = self._apart(messages, False)
        text, _ = chat.render_spans(self.template, own, self.bos, self.eos)
        spans = self._spans(own, text)
        return self._split(text, spans[-1:] if last else spans, own is not messages)

    def _messages(self, prompt) -> list:
        """Checked messages; ValueError names a role that the template has not, or a missing content."""
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt}]
        for number, message in enumerate(chat.check(prompt)):
            role = message["role"]
            if role not in ROLES and f"'{role}'" not in self.template.replace('"', "'"):
                raise ValueError(
                    f"message {number} of the chat has the role {role!r}, which the template does not "
                    f"name; expected {', '.join(ROLES)}"
                )
            _said(number, message)
        return list(prompt)

    def _apart(self, messages, prompt: bool) -> list:
        """The messages, or a copy of them with marks where one spells a special token."""
        if not any(self.spelled.within(message) for message in messages):
            return messages
        own = self.spelled.apart(messages)
        if self.spelled.joined(self._render(own, prompt)) != self._render(messages, prompt):
            raise ValueError(
                "a message spells a special token that the chat template looks for in it; expected "
                "messages without special tokens"
            )
        return own

    def _encode(self, text, marked: bool) -> np.ndarray:
        return self.spelled.encode(text) if marked else self.tokenizer.encode(text)

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
            until = self._render(messages[: turn + 1], False)
            before = self._render(messages[:turn], True) if turn else self._header(messages, until)
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

    def _header(self, messages, until) -> str:
        """What a template writes before the words of an assistant who speaks first.

        That ends as a prompt does where the template begins an answer alike after a question.
        """
        probed = self._render([{**messages[0], "content": PROBE}], False)
        before = probed.partition(PROBE)[0]
        if PROBE not in probed or not until.startswith(before):
            raise ValueError(
                "the chat template does not show where the words of an assistant who speaks first begin"
            )
        asked = [{"role": "user", "content": "a"}]
        try:
            opened = self._render(asked, True).removeprefix(self._render(asked, False))
        except ValueError:
            return before
        at = before.find(opened)
        return before[: at + len(opened)] if opened and at >= 0 else before

    def _split(self, text, spans, marked: bool) -> tuple:
        """Tokens of a text, trained where they begin inside a span; `marked` for one with marks.

        Our own kinds of tokenizer read the parts one by one, as generation does; of a foreign one
        the whole is read, since it may add a blank in front of each.
        """
        if self.tokenizer.exact:
            parts, at = [], 0
            for start, end in spans:
                parts += [(text[at:start], False), (text[start:end], True)]
                at = end
            parts.append((text[at:], False))
            return _join([(self._encode(part, marked), on) for part, on in parts if part])
        raw = self.spelled.raw if marked else self.tokenizer.raw
        if marked:
            place = lambda at: len(self.spelled.renamed(text[:at]))
            spans = [(place(start), place(end)) for start, end in spans]
            text = self.spelled.renamed(text)
        found = raw.encode(text, add_special_tokens=False)
        ids = self.spelled.ids[found.ids] if marked else found.ids
        inside = lambda at: any(start <= at < end for start, end in spans)
        trained = [inside(max(begin, stop - 1)) for begin, stop in found.offsets]
        return np.asarray(ids, np.int32), np.asarray(trained, bool)


def _join(parts) -> tuple:
    ids = [np.asarray(part, np.int32) for part, _ in parts]
    trained = [np.full(len(part), on) for part, (_, on) in zip(ids, parts, strict=True)]
    return np.concatenate(ids), np.concatenate(trained)


class Row(tuple):
    """("chat", messages) or ("pair", prompt, completion), and `where` it stands."""

    where = "a row"

    @classmethod
    def of(cls, where: str, *parts):
        made = cls(parts)
        made.where = where
        return made


def texts(table: Table, config) -> list:
    """A `Row` of each of a table's; ValueError names a bad one."""
    name = lambda field: get(config, f"data.{field}", field)
    if name("messages") in table.columns:
        column = table.column(name("messages"), (list,))
        for number, messages in enumerate(column):
            try:
                _check(messages)
            except ValueError as error:
                raise ValueError(f"{table.where(number)}: {error}") from None
        return [Row.of(table.where(n), "chat", messages) for n, messages in enumerate(column)]
    both = [table.column(name(field), (str, list)) for field in ("prompt", "completion")]
    for number, completion in enumerate(both[1]):
        if not isinstance(completion, str) or not completion.strip():
            raise ValueError(f"{table.where(number)}: the completion is empty; expected text")
    rows = zip(*both, strict=True)
    return [Row.of(table.where(n), "pair", *row) for n, row in enumerate(rows)]


def _check(messages):
    """ValueError for a chat to train on in which an assistant says nothing, or never speaks."""
    turns = 0
    for number, message in enumerate(chat.check(messages)):
        _said(number, message)
        if message["role"] == "assistant":
            turns += 1
            if not _content(message).strip():
                raise ValueError(
                    f"message {number} of the chat is an empty answer by the assistant; expected text"
                )
    if not turns:
        raise ValueError("a chat has no assistant's message to train on")


def _said(number: int, message):
    if message.get("content") is None:
        raise ValueError(f"message {number} of the chat has no content; expected text")


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
    """(rows that fit `config.length`, how many were cut, how many were left out).

    ValueError names the row that the template refuses or cannot show.
    """
    how = get(config, "data.loss", "completion")
    if how not in LOSSES:
        raise ValueError(f"config.data.loss is {how!r}; expected {' or '.join(LOSSES)}")
    rows = [_encoded(row, dialogue) for row in found]
    if how == "all":
        rows = [(tokens, np.ones(len(tokens), bool)) for tokens, _ in rows]
    return answers.cut(rows, int(config.length), bool(get(config, "data.truncate", False)))


def _encoded(row, dialogue: Dialogue) -> tuple:
    try:
        return dialogue.chat(row[1]) if row[0] == "chat" else dialogue.answered(*row[1:])
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from None


def plain_texts(found) -> list:
    """Every text of some rows, for a tokenizer that is trained on them."""
    out = set()
    for row in found:
        for part in row[1:]:
            out |= {part} if isinstance(part, str) else {f"{m.get('content', '')}" for m in part}
    return sorted(out)
