"""The command line of a run: `--config.optim.lr=3e-4` sets a field that exists, with its type.

We read these arguments ourselves, because `ml_collections.config_flags` ignores `config.seed=1`
without dashes, refuses `1e4` for an int, does not check what is in a tuple, answers with a
traceback, and reads only the process's own `sys.argv`. Its forms are all accepted.
"""

import ast
import re

from ml_collections import ConfigDict

from train.core.config import elements, leaves, listed
from train.core.errors import nearest

OPTIONS = ("--config", "--workdir", "--print_config", "--check", "--help")
_HINT = "expected --config.NAME=VALUE, --workdir=DIR, --print_config or --check"
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def split(argv) -> tuple:
    """(our own options as a dict, all the other arguments) of a command line.

    The options are `config`, `workdir` (str, the last of several wins), `print_config`, `check`,
    `help` (bool). ValueError for one without a value.
    """
    options = dict(config="", workdir="", print_config=False, check=False, help=False)
    rest, waiting = [], list(argv)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        name = "--help" if name == "-h" else name
        key = name[2:]
        if not name.startswith("--") or key not in options:
            rest.append(argument)
        elif isinstance(options[key], bool):
            if equals and value.lower() not in _TRUTH:
                raise ValueError(f"{argument}: expected {name} alone")
            options[key] = _TRUTH[value.lower()] if equals else True
        elif equals:
            options[key] = value
        elif waiting and not waiting[0].startswith("--"):
            options[key] = waiting.pop(0)
        else:
            raise ValueError(f"{name} has no value; write {name}=...")
    return options, rest


def override(config: ConfigDict, arguments) -> None:
    """Applies `--config.a.b=value`, `--config.a.b value`, `--config.flag` and `--noconfig.flag`.

    ValueError for anything else, saying what was probably meant. The last of several wins.
    """
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        name, equals, text = argument.partition("=")
        body = name.lstrip("-")
        dashes = len(name) - len(body)
        if dashes != 2 or not body.startswith(("config.", "noconfig.")):
            raise ValueError(_leftover(argument, body, config))
        key = body.partition(".")[2]
        old = _lookup(config, key)
        if body.startswith("noconfig."):
            if not isinstance(old, bool) or equals:
                raise ValueError(f"--noconfig.{key}: config.{key} is not a flag to switch off")
            text = "false"
        elif not equals:
            follows = arguments and not arguments[0].startswith("--")
            truth = isinstance(old, bool)
            if follows and (not truth or arguments[0].lower() in _TRUTH):
                text = arguments.pop(0)
            elif truth:
                text = "true"
            else:
                raise ValueError(f"--config.{key} has no value; write --config.{key}={old!r}")
        section, _, field = key.rpartition(".")
        (_lookup(config, section, True) if section else config)[field] = parse(key, text, old)


def _leftover(argument: str, body: str, config: ConfigDict) -> str:
    """What to say of an argument that is no override."""
    key = body.partition(".")[2] if body.startswith(("config.", "noconfig.")) else body
    known = [name for name, _ in leaves(config)]
    value = argument.partition("=")[1:]
    if key in known:
        return (
            f'argument "{argument}" is not an option; did you mean --config.{key}{"".join(value)}?'
        )
    near = nearest("--" + body, [*OPTIONS, *(f"--config.{name}" for name in known)], 0.75)
    return f'argument "{argument}" is not an option; ' + (near if "did you" in near else _HINT)


def _lookup(config: ConfigDict, key: str, section=False):
    """The value at a dotted name; ValueError with the nearest name, or if it is a section."""
    value, names = config, key.split(".")
    for depth, name in enumerate(names):
        if not isinstance(value, ConfigDict):
            raise ValueError(f"config.{'.'.join(names[:depth])} is a value and has no fields")
        if name not in value:
            known = list(value)
            if name not in known and depth == len(names) - 1:
                known += [full for full, _ in leaves(config) if full.rpartition(".")[2] == name]
            place = "config." + "".join(n + "." for n in names[:depth])
            elsewhere = [full for full in known if full.endswith("." + name)]
            near = f"did you mean config.{elsewhere[0]}?" if elsewhere else nearest(name, known)
            raise ValueError(f"no field {place}{name}; {near}")
        value = value[name]
    if isinstance(value, ConfigDict) and not section:
        raise ValueError(f"config.{key} is a section; give one of its fields: {listed(value)}")
    return value


def parse(key: str, text: str, old):
    """The value that `text` stands for in a field that now holds `old`, with the same type."""
    try:
        if isinstance(old, bool):
            return _TRUTH[text.lower()]
        if isinstance(old, int):
            return _integer(text)
        if isinstance(old, float):
            value = float(text)
            if value != value:
                raise ValueError
            return value
        if isinstance(old, tuple):
            return elements(key, _tuple(text))
    except (KeyError, SyntaxError, OverflowError):
        raise _unparsed(key, text, old) from None
    except ValueError as error:
        raise (error if str(error).startswith("config.") else _unparsed(key, text, old)) from None
    return text


def _unparsed(key, text, old):
    kind = {bool: "true or false", int: "a whole number", float: "a number"}
    expected = kind.get(type(old), f"a tuple such as {old or '(1, 2)'!r}")
    return ValueError(f'--config.{key}="{text}": expected {expected} (now {old!r})')


def _integer(text: str) -> int:
    """A whole number, also as 1_000 or 1e4."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if number != int(number):
            raise ValueError from None
        return int(number)


def _tuple(text: str) -> tuple:
    """A tuple from `(1,2)`, `1,2`, `7` or, for names, `a,b`."""
    if not text.strip():
        return ()
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        if re.search(r"[()\[\]'\"]", text):
            raise
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(value, list):
        raise ValueError
    return value if isinstance(value, tuple) else (value,)
