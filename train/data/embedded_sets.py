"""The embedded sets that are more than a file of documents: verse pairs and rated snippets.

``embedded/NOTICE.md`` says where each comes from, and under which licence.
"""

import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "embedded"
VADER = {
    "vader-movies": "movieReviewSnippets",
    "vader-tweets": "tweets",
    "vader-amazon": "amazonReviewSnippets",
}

BOOKS = (
    "Genesis 1533 Exodus 1213 Leviticus 859 Numbers 1288 Deuteronomy 959 Joshua 658 Judges 618 "
    "Ruth 85 1Samuel 810 2Samuel 695 1Kings 816 2Kings 719 1Chronicles 942 2Chronicles 822 "
    "Ezra 280 Nehemiah 406 Esther 167 Job 1070 Psalms 2461 Proverbs 915 Ecclesiastes 222 "
    "SongOfSongs 117 Isaiah 1292 Jeremiah 1364 Lamentations 154 Ezekiel 1273 Daniel 357 "
    "Hosea 197 Joel 73 Amos 146 Obadiah 21 Jonah 48 Micah 105 Nahum 47 Habakkuk 56 "
    "Zephaniah 53 Haggai 38 Zechariah 211 Malachi 55 Matthew 1071 Mark 678 Luke 1151 John 879 "
    "Acts 1007 Romans 433 1Corinthians 437 2Corinthians 257 Galatians 149 Ephesians 155 "
    "Philippians 104 Colossians 95 1Thessalonians 89 2Thessalonians 47 1Timothy 113 "
    "2Timothy 83 Titus 46 Philemon 25 Hebrews 303 James 108 1Peter 105 2Peter 61 1John 105 "
    "2John 13 3John 14 Jude 25 Revelation 404"
)


def verse_pairs() -> list[tuple[str, str, str]]:
    """Returns 31,102 (book, King James verse, World English verse), in canonical order."""
    counts = BOOKS.split()
    books = [book for book, n in zip(counts[::2], counts[1::2]) for _ in range(int(n))]
    with lzma.open(FOLDER / "kjv_web.tsv.xz", "rt", encoding="utf-8", newline="\n") as file:
        pairs = [line.rstrip("\n").split("\t") for line in file]
    return [(book, *pair) for book, pair in zip(books, pairs, strict=True)]


def ratings(name: str) -> list[tuple[str, float, str]]:
    """Returns (id, mean rating in [-4, 4], text) of an embedded VADER set, such as vader-movies."""
    path = FOLDER / "vader" / f"{VADER[name]}_GroundTruth.txt.xz"
    with lzma.open(path, "rt", encoding="utf-8-sig", newline="\n") as file:
        rows = [line.rstrip("\r\n").split("\t", 2) for line in file]
    return [(key, float(mean), text) for key, mean, text in rows]


def raw_ratings(name: str) -> dict[str, list[int]]:
    """Returns every rater's score in -4..4 by text id, for an embedded VADER set.

    The published means are the means of these, but for 195 of the tweets.
    """
    path = FOLDER / "vader" / f"{VADER[name]}_anonDataRatings.txt.xz"
    with lzma.open(path, "rt", encoding="utf-8-sig", newline="\n") as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file]
    return {row[0]: json.loads(row[3]) for row in rows}


def bible(source: str) -> Iterator[tuple[str, str]]:
    """Yields (book, text) of "kjv" or "web"; of "kjv_web" both, with the side before the book."""
    pairs = verse_pairs()
    for column, side in ((1, "kjv"), (2, "web")):
        if source in (side, "kjv_web"):
            books = {}
            for pair in pairs:
                books.setdefault(pair[0], []).append(pair[column])
            for book, verses in books.items():
                name = book if source == side else f"{side}/{book}"
                yield name, "\n".join(verses) + "\n"


TOYS = {
    "copy": lambda text: text,
    "reverse": lambda text: text[::-1],
    "sort": lambda text: "".join(sorted(text)),
}


def letters(task: str, count: int = 20_000, held: int = 500) -> list[tuple[str, str, str]]:
    """Returns (part, text, target): distinct rows of 1 to 12 letters a-p; the last ones are held out.

    The target is the text, its reverse or its letters in order: what a decoder can only know from
    the source. ValueError for another task.
    """
    if task not in TOYS:
        raise ValueError(f"no toy task {task!r}; expected one of {', '.join(TOYS)}")
    draw, seen = random.Random(0), {}
    while len(seen) < count:
        seen["".join(draw.choices("abcdefghijklmnop", k=draw.randint(1, 12)))] = None
    parts = ["train"] * (count - held) + ["heldout"] * held
    return [(part, text, TOYS[task](text)) for part, text in zip(parts, seen, strict=True)]
