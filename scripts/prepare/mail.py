"""Mails as text without headers, and which of them are nearly the same."""

import email
import email.policy
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import xxhash

FOLDERS = (
    ("easy-ham-1", "ham"), ("easy-ham-2", "ham"), ("hard-ham-1", "ham"), ("spam-1", "spam"),
    ("spam-2", "spam"),
)  # fmt: skip
WORDS = 5  # words of a shingle
BANDS, ROWS = 20, 4  # of minimal hashes: mails that share half their shingles meet with 0.72
ALIKE = 0.5  # share of common shingles from which on two mails count as nearly the same


class _Words(HTMLParser):
    """Collects what a reader of a page sees."""

    def __init__(self):
        super().__init__()
        self.parts, self.hidden = [], 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style") and self.hidden > 0

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def plain(html: str) -> str:
    """The visible words of a page."""
    parser = _Words()
    parser.feed(html)
    parser.close()
    return " ".join(" ".join(parser.parts).split())


def body(mail: str) -> str:
    """The text of a mail's parts without any header; of a page, its visible words."""
    message = email.message_from_string(mail, policy=email.policy.compat32)
    found = []
    for part in message.walk():
        kind = part.get_content_type()
        if part.is_multipart() or kind not in ("text/plain", "text/html"):
            continue
        raw = part.get_payload(decode=True) or b""
        try:
            text = raw.decode(part.get_content_charset() or "latin-1", "replace")
        except LookupError:
            text = raw.decode("latin-1")
        text = text.replace("\0", " ")
        found.append(plain(text) if kind == "text/html" else text.strip())
    return "\n".join(text for text in found if text)


def mails(folder: Path):
    """(text, label) of every mail with a body, in a fixed order; says how many had none."""
    empty = 0
    for name, label in FOLDERS:
        paths = sorted((Path(folder) / name).glob("*.json"))
        if not paths:
            raise FileNotFoundError(f"no mails in {Path(folder) / name}")
        for path in paths:
            text = body(json.loads(path.read_text(encoding="utf-8"))["text"])
            if text:
                yield text, label
            else:
                empty += 1
    if empty:
        print(f"{empty} mails without text are left out")


def shingles(text: str) -> set:
    """Hashes of every run of WORDS words, letters and digits in lower case."""
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    runs = range(max(len(words) - WORDS + 1, 1))
    return {xxhash.xxh3_64_intdigest(" ".join(words[n : n + WORDS]).encode()) for n in runs}


def near(texts) -> list:
    """A group's number for each text: those that share half of their shingles, or are joined by a
    chain of such, have one number. Found by minimal hashes in bands (Broder 1997), then compared."""
    sets = [shingles(text) for text in texts]
    rng = np.random.default_rng(0)
    odd = rng.integers(0, 1 << 63, BANDS * ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
    parents = list(range(len(texts)))

    def root(n):
        while parents[n] != n:
            parents[n] = parents[parents[n]]
            n = parents[n]
        return n

    buckets = {}
    for number, found in enumerate(sets):
        hashes = np.fromiter(found, np.uint64, len(found))
        least = (hashes[:, None] * odd).min(0).reshape(BANDS, ROWS)
        for band, row in enumerate(least):
            for other in buckets.setdefault((band, row.tobytes()), []):
                a, b = root(number), root(other)
                if a != b and _alike(found, sets[other]):
                    parents[max(a, b)] = min(a, b)
            buckets[band, row.tobytes()].append(number)
    return [root(number) for number in range(len(texts))]


def _alike(a: set, b: set) -> bool:
    common = len(a & b)
    return common >= ALIKE * (len(a) + len(b) - common)
