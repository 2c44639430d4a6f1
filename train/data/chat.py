"""Chat templates: a model's own jinja2 template turns messages into the text that it was trained on.

Templates come with checkpoints, so that they are untrusted: they run in jinja2's immutable sandbox
and see plain data only. Rendering follows the reference library (transformers): blocks trimmed, the
`generation` tag, `tojson`, `raise_exception`, `strftime_now`, loop controls.
"""

import datetime
import functools
import json
from collections.abc import Mapping

import jinja2
import jinja2.ext
import jinja2.sandbox

LONGEST = 1 << 20  # characters of a template


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what an assistant wrote: it becomes a pair of
    private characters, which `render` takes out again and turns into spans."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_mark")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, caller):
        return OPEN + caller() + CLOSE


OPEN, CLOSE = "\U0010fffe", "\U0010ffff"  # noncharacters: no text holds them


class _Namespace(jinja2.utils.Namespace):
    """A namespace without underscored names, which could reach Python's internals."""

    def __init__(*args, **kwargs):  # `namespace(self=...)` is allowed, as in jinja2
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name, value):
        _Namespace._check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name):
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def _json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@functools.lru_cache(maxsize=32)
def _compiled(source: str):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


def _plain(value):
    """Plain JSON data and nothing that has methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise ValueError(f"a chat message holds a {type(value).__name__}; expected text or plain data")


def check(messages) -> list:
    """The messages as plain data: a non-empty list of mappings with a `role` and `content`."""
    messages = _plain(messages)
    if not isinstance(messages, list) or not messages:
        raise ValueError("a chat needs a list of at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"message {number} of the chat has no role: {str(message)[:80]}")
        if OPEN in str(message.get("content")) or CLOSE in str(message.get("content")):
            raise ValueError(f"message {number} of the chat holds a character that is no text")
    return messages


def render(template, messages, bos="", eos="", prompt=True, **names) -> str:
    """The text of a chat. `prompt` asks for the beginning of the assistant's next message.

    bos and eos are the tokens' texts; templates write them themselves, so that the text is to be
    encoded without adding any (a second BOS would be wrong). Further names go to the template.
    ValueError for a missing or broken template and for what the template refuses.
    """
    return render_spans(template, messages, bos, eos, prompt, **names)[0]


def turn_end(template, bos="", eos="") -> str:
    """What a template puts behind an assistant's words, without the white space around; "" where it
    cannot be told (it refuses a short chat, or changes the words)."""
    said = "words"
    try:
        asked = {"role": "user", "content": "a"}
        text = render(template, [asked, {"role": "assistant", "content": said}], bos, eos, False)
    except ValueError:
        return ""
    return text.rpartition(said)[2].strip() if said in text else ""


def edges(tokenizer) -> tuple:
    """The texts of a tokenizer's bos and eos, as templates write them; "" for none."""
    name = lambda i: tokenizer.raw.id_to_token(i) or "" if i >= 0 else ""  # noqa: E731
    return name(tokenizer.bos), name(tokenizer.eos)


def turn_ends(tokenizer) -> tuple:
    """(ids, texts) one of which ends the model's turn by the tokenizer's template: the id where it is
    one token, else the text; both empty where there is no template or nothing ends a turn."""
    template = getattr(tokenizer, "chat_template", "")
    if not template:
        return (), ()
    text = turn_end(template, *edges(tokenizer))
    ids = tokenizer.encode(text).tolist() if text else []
    return (tuple(ids), ()) if len(ids) < 2 else ((), (text,))


def stops(tokenizer, texts) -> tuple:
    """(ids, texts) that end a text where the user names `texts`: a special token by its id, since
    decoding leaves it out."""
    found = {text: tokenizer.raw.token_to_id(text) for text in texts}
    left_out = lambda i: tokenizer.decode([i]) and not tokenizer.decode([i], skip_special=True)
    ids = {text: i for text, i in found.items() if i is not None and left_out(i)}
    return tuple(ids.values()), tuple(text for text in texts if text not in ids)


def render_spans(template, messages, bos="", eos="", prompt=False, **names):
    """(text, [(start, end), ...]): the characters inside the template's `generation` tags, which
    are what an assistant wrote, its end of turn included; an empty list if it has no such tags."""
    if not template:
        raise ValueError("this model has no chat template; give a prompt without --chat")
    if len(template) > LONGEST:
        raise ValueError(f"the chat template has {len(template)} characters; at most {LONGEST}")
    data = {"tools": None, "documents": None, **_plain(names)}
    try:
        marked = _compiled(template).render(
            messages=check(messages),
            bos_token=bos,
            eos_token=eos,
            add_generation_prompt=prompt,
            **data,
        )
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is broken in line {error.lineno}: {error}") from error
    except jinja2.exceptions.TemplateError as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"the chat template cannot take these messages: {error}") from error
    return _spans(marked)


def _spans(marked):
    text, spans, start = "", [], 0
    for index, part in enumerate(marked.replace(CLOSE, OPEN).split(OPEN)):
        start = len(text)
        text += part
        if index % 2:
            spans.append((start, len(text)))
    return text, spans
