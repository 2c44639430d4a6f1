"""Package descriptions as apt's lists have them: Packages and Translation-LANGUAGE."""

import re
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """Where a binary package belongs."""

    section: str
    source: str


class Description(NamedTuple):
    """One description: `line` is its synopsis, `paragraphs` the long part, unwrapped."""

    name: str
    digest: str
    line: str
    paragraphs: tuple

    @property
    def text(self) -> str:
        return "\n".join((self.line, *self.paragraphs))


def stanzas(path: Path):
    """The fields of each entry: {name: value}, following lines kept with their line breaks."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: python -m scripts.prepare fetch --list")
    fields, name = {}, ""
    with open(path, encoding="utf-8") as file:
        for line in file:
            line = line.rstrip("\n")
            if not line:
                if fields:
                    yield fields
                fields, name = {}, ""
            elif line[0] == " " and name:
                fields[name] += "\n" + line[1:]
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
    if fields:
        yield fields


def packages(folder: Path) -> dict:
    """{binary package: Package}; sections without the archive's area (contrib/, non-free/)."""
    found = {}
    for fields in stanzas(folder / "Packages"):
        source = fields.get("Source", fields["Package"]).split(" ")[0]
        section = fields.get("Section", "").rpartition("/")[2]
        found.setdefault(fields["Package"], Package(section, source))
    return found


def distinct(folder: Path, language: str):
    """Every description once: the first of those with the same digest or the same text."""
    digests, texts = set(), set()
    for fields in stanzas(folder / f"Translation-{language}"):
        whole = fields.get(f"Description-{language}", "")
        digest = fields.get("Description-md5", "")
        if not whole or digest in digests or whole in texts:
            continue
        digests.add(digest)
        texts.add(whole)
        line, _, rest = whole.partition("\n")
        yield Description(fields["Package"], digest, line.strip(), paragraphs(rest))


def paragraphs(text: str) -> tuple:
    """The paragraphs, which a lone dot separates, with lines joined; lists keep their lines."""
    made = []
    for block in re.split(r"^\.\s*$", text, flags=re.MULTILINE):
        lines = []
        for line in block.split("\n"):
            if not line.strip():
                continue
            fresh = line[0] == " " or not lines
            if fresh:
                lines.append(line.strip())
            else:
                lines[-1] += " " + line.strip()
        if lines:
            made.append("\n".join(lines))
    return tuple(made)
