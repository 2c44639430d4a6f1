"""Tables of labelled examples: files with named columns, hub data sets, the embedded ratings.

    PATH.csv, PATH.tsv[.gz|.xz|.bz2]   a header row names the columns; CSV quotes as RFC 4180 has it,
                                       TSV has no quotes
    PATH.jsonl[.gz|.xz|.bz2]           one object a line
    PATH.json                          a list of objects, or SQuAD's form: one row a question with
                                       id, title, context, question, answers
    PATH.parquet                       needs pyarrow
    hub:OWNER/NAME[:CONFIG[:SPLIT]]    needs the extra `hub`
    vader-movies, -tweets, -amazon     id, text, mean in [-4, 4], and label: "positive" or
                                       "negative" where |mean| > 0.5; other snippets are left out
    kjv_web                            book, kjv, web: the verses of two English Bibles
    toy:copy, toy:reverse, toy:sort    part ("train" or "heldout"), text, target: rows of letters

Every value keeps the place that it came from, so that a mistake can be named.
"""

import csv
import dataclasses
import io
import json
from pathlib import Path

from train.core.errors import nearest
from train.data import embedded_sets, extras, sources

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
CLEAR = 0.5  # |mean rating| above which a snippet counts as positive or negative
FIELD_LIMIT = 16 << 20  # characters of one CSV field


@dataclasses.dataclass
class Table:
    """Rows by number. `where(i)` says where row i stands, for messages."""

    source: str
    columns: tuple
    rows: list
    lines: list
    word: str = "row"

    def __len__(self):
        return len(self.rows)

    def where(self, row: int) -> str:
        return f"{self.source}, {self.word} {self.lines[row]}"

    def column(self, name: str, kinds=(str,)) -> list:
        """All values of a column; ValueError names the column, or the first row of another type."""
        if name not in self.columns:
            raise ValueError(
                f"{self.source} has no column {name!r}; {nearest(name, self.columns)}\n"
                f"columns: {', '.join(map(str, self.columns))}"
            )
        values = [row.get(name) for row in self.rows]
        for number, value in enumerate(values):
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(
                    f"{self.where(number)}: column {name!r} holds {str(value)[:60]!r} "
                    f"({type(value).__name__}); expected {expected}"
                )
        return values

    def take(self, numbers) -> "Table":
        """The table of some of the rows."""
        rows, lines = [self.rows[n] for n in numbers], [self.lines[n] for n in numbers]
        return dataclasses.replace(self, rows=rows, lines=lines)


def read(source: str) -> Table:
    """The table that a source names; ValueError or FileNotFoundError say what is wrong with it."""
    if source in embedded_sets.VADER:
        return _ratings(source)
    if source == "kjv_web" or source.startswith("toy:"):
        return _pairs(source)
    if source.startswith("hub:"):
        rows = list(extras.hub(source))
        return _named(source, rows, list(range(len(rows))))
    path = Path(source)
    if not path.is_file():
        known = ", ".join((*embedded_sets.VADER, "kjv_web"))
        raise FileNotFoundError(f"no table {source!r}: neither a file nor one of {known}")
    kind = sources.kind_of(path)
    if kind not in SUFFIXES:
        raise ValueError(f"{source}: {kind!r} is no kind of table; expected {', '.join(SUFFIXES)}")
    if kind == ".parquet":
        rows = list(extras.parquet(path))
        table = _named(str(path), rows, list(range(1, len(rows) + 1)))
    elif kind == ".json":
        table = _json(path)
    else:
        table = _objects(path) if kind in sources.ROW_SUFFIXES else _separated(path, kind)
    if not len(table):
        raise ValueError(f"{source} has no row")
    return table


def _text(path) -> str:
    try:
        with sources.unpacked(path) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: bad byte at offset {error.start}") from error
    except sources.DAMAGED as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _separated(path, kind) -> Table:
    """A CSV or TSV file; the line of a row is where it ends."""
    csv.field_size_limit(FIELD_LIMIT)
    quotes = dict(delimiter="\t", quoting=csv.QUOTE_NONE) if kind == ".tsv" else dict(strict=True)
    reader = csv.reader(io.StringIO(_text(path), newline=""), **quotes)
    rows, lines = [], []
    try:
        columns = tuple(next(reader, ()))
        if len(set(columns)) < len(columns) or not all(columns):
            raise ValueError(
                f"{path}: the first line names the columns, each once; it is {columns!r}"
            )
        for values in reader:
            if not values:
                continue
            if len(values) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(values)} fields; the header has "
                    f"{len(columns)}: {', '.join(columns)}"
                )
            rows.append(dict(zip(columns, values, strict=True)))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return Table(str(path), columns, rows, lines, "line")


def _objects(path) -> Table:
    rows, lines = [], []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
            rows.append(row)
            lines.append(number)
    return _named(str(path), rows, lines, "line")


def _named(source, rows, lines, word="row") -> Table:
    """A table of objects; its columns are all names that occur."""
    columns = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise ValueError(f"{source}, {word} {lines[number]}: a {kind}, expected an object")
        columns.update(dict.fromkeys(row))
    return Table(source, tuple(columns), rows, lines, word)


def _json(path) -> Table:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        try:
            found = list(_questions(found["data"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not of SQuAD's form: {error!r}") from error
    if not isinstance(found, list):
        raise ValueError(f"{path} holds neither a list of objects nor SQuAD's data")
    return _named(str(path), found, list(range(1, len(found) + 1)))


def _questions(articles):
    """SQuAD's articles, paragraphs and questions as flat rows, in the form of its hub data set."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [] if question.get("is_impossible") else question.get("answers", [])
                yield {
                    "id": str(question["id"]),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    },
                }


def _ratings(source) -> Table:
    rows, lines = [], []
    for number, (key, mean, text) in enumerate(embedded_sets.ratings(source), 1):
        if abs(mean) > CLEAR:
            label = "positive" if mean > 0 else "negative"
            rows.append({"id": key, "text": text, "mean": mean, "label": label})
            lines.append(number)
    return Table(source, ("id", "text", "mean", "label"), rows, lines)


def _pairs(source) -> Table:
    if source == "kjv_web":
        names, found = ("book", "kjv", "web"), embedded_sets.verse_pairs()
    else:
        names, found = ("part", "text", "target"), embedded_sets.letters(source[4:])
    rows = [dict(zip(names, values, strict=True)) for values in found]
    return Table(source, names, rows, list(range(1, len(rows) + 1)))
