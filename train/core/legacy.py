"""Checkpoints that older versions of this code wrote.

Every checkpoint says its format (`format` in its run.json; one without is of the first). A format is
read by going through the tables below from its own to today's: a rename of parameters is a regex
over the path within a group (`blocks/0/attn/q/kernel`; optimiser states repeat it), one of the
config a dotted name. What a config of that time did not have takes the default that means what the
code did then, which is today's default of the field.

To change a name: raise `provenance.FORMAT`, add a row under the format that had the old name, and
freeze a checkpoint of that format under tests/golden.
"""

import re
from collections.abc import Mapping

from models.options import Options
from train.core import provenance

# {format: ((regex of a path's part, what it is called from the next format on), ...)}
PARAMETERS = {
    0: (
        (r"(^|/)embed/table/embedding", r"\1embed/tokens/embedding"),
        (r"(^|/)blocks/(\d+/)?attn/out/", r"\1blocks/\2attn/o/"),
    ),
}
# {format: {dotted name: its name from the next format on}}
CONFIG = {0: {"model.embedding_dropout": "model.drop_embed", "save.every": "checkpoint.every"}}


def version(run: Mapping) -> int:
    """The format that a run.json states; ValueError for one that is newer than this code or none."""
    found = run.get("format", 0)
    if type(found) is not int or not 0 <= found <= provenance.FORMAT:
        raise ValueError(
            f"the checkpoint has format {found!r:.40}; this version reads up to {provenance.FORMAT}"
        )
    return found


def renamed(path: str, found: int) -> str:
    """Today's path of an array that a checkpoint of format `found` holds as `path`."""
    for number in range(found, provenance.FORMAT):
        for pattern, now in PARAMETERS.get(number, ()):
            path = re.sub(pattern, now, path)
    return path


def config(raw: Mapping, found: int) -> dict:
    """A checkpoint's config with today's names, and defaults for fields it did not have yet.

    ValueError, from `Options`, for a model with options that nobody knows.
    """
    rows = dict(_rows(raw))
    for number in range(found, provenance.FORMAT):
        for old, now in CONFIG.get(number, {}).items():
            if old in rows:
                rows[now] = rows.pop(old)
    made = {}
    for name, value in rows.items():
        *parents, last = name.split(".")
        section = made
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    if "kind" in made.get("model", {}) or "family" in made.get("model", {}):
        made["model"] = Options.of(made["model"]).plain()
    return made


def _rows(tree: Mapping, prefix=""):
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
