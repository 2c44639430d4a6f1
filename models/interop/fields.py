"""Fields of a config.json: of the wanted kind, or an error that names them."""

from collections.abc import Mapping

ACTS = {  # their names to ours; openai-gpt has its own
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "linear": "identity",
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def get(c: Mapping, field: str, default, kind: type):
    """A field of the wanted kind; absent or null gives the default. ValueError names the field."""
    value = c.get(field)
    if value is None:
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"config.json: {field} is {value!r:.60}; expected {KINDS[kind]}")
    return value


def act(c: Mapping, field: str, default: str, table=ACTS) -> str:
    """Our name of an activation. ValueError names one that we do not have."""
    name = get(c, field, default, str)
    if name not in table:
        raise ValueError(f"config.json: {field} is {name!r:.80}; supported are {', '.join(table)}")
    return table[name]


def labels(c: Mapping) -> int:
    """The number of classes: of id2label, else num_labels, else 2."""
    named = c.get("id2label")
    if isinstance(named, Mapping) and named:
        return len(named)
    return get(c, "num_labels", 2, int)


def shortest(items) -> tuple:
    """The shortest tuple that, repeated a whole number of times, gives the items; () of none."""
    for size in range(1, len(items) + 1):
        if len(items) % size == 0 and list(items[:size]) * (len(items) // size) == list(items):
            return tuple(items[:size])
    return ()


def changed(table, **defaults):
    """A table of (field, alias, option, default) with other defaults for the fields named."""
    return tuple((f, alias, ours, defaults.get(f, default)) for f, alias, ours, default in table)


def numbers(c: Mapping, field: str, default: tuple, kinds=(int,)) -> tuple:
    """A list of numbers. ValueError names the field for anything else, or for a thousand of them."""
    found = c.get(field)
    found = list(default) if found is None else found
    if not isinstance(found, (list, tuple)) or any(type(n) not in kinds for n in found):
        raise ValueError(f"config.json: {field} is {found!r:.60}; expected a list of numbers")
    if len(found) > 1000 or any(not -(10**6) < n < 10**6 for n in found):
        raise ValueError(f"config.json: {field} holds too many numbers or too large ones")
    return tuple(found)


def blocks(depths: tuple, field: str) -> tuple:
    """The depths of stages, if they have no more blocks than any net. ValueError names the field."""
    if sum(depths) > 2000:
        raise ValueError(f"config.json: {field} sums to {sum(depths):,} blocks; at most 2,000")
    return depths
