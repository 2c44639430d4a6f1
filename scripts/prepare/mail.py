"""Mails as text without headers, and which of them are nearly the same."""

import email
import email.policy
import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

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
    """Collects what a reader of a page sees and, if asked, whose machine its links name."""

    def __init__(self, links: bool):
        super().__init__()
        self.parts, self.hidden, self.links = [], 0, links

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style")
        if self.links and not self.hidden:
            named = dict(attrs)
            targets = [named[key] for key in ("href", "action") if named.get(key)]
            self.parts += [f"[{host(target)}]" for target in targets]
            self.parts += ["[image]"] * (tag == "img")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style") and self.hidden > 0

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def host(target: str) -> str:
    """Where a link leads: the host of a URL, "mailto" and the domain of an address, "here" otherwise."""
    try:
        url = urlsplit(target.strip())
    except ValueError:  # such as a bracket that is not closed
        return "?"
    if url.scheme == "mailto":
        return "mailto " + url.path.rpartition("@")[2]
    return url.netloc or url.scheme or "here"


def plain(html: str, links: bool = False) -> str:
    """The visible words of a page; with `links` each link's host and each image stand in brackets."""
    parser = _Words(links)
    parser.feed(html)
    parser.close()
    return " ".join(" ".join(parser.parts).split())


def body(mail: str, links: bool = False) -> str:
    """The text of a mail's parts without any header; of a page, its visible words (`plain`)."""
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
        found.append(plain(text, links) if kind == "text/html" else text.strip())
    return "\n".join(text for text in found if text)


def mails(folder: Path):
    """(text with links, visible words, label) of every mail with words in its body, in a fixed order;
    says how many had none."""
    empty = 0
    for name, label in FOLDERS:
        paths = sorted((Path(folder) / name).glob("*.json"))
        if not paths:
            raise FileNotFoundError(f"no mails in {Path(folder) / name}")
        for path in paths:
            whole = json.loads(path.read_text(encoding="utf-8"))["text"]
            words = body(whole)
            if words:
                yield body(whole, links=True), words, label
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
