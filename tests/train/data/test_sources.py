"""Sources: every format gives the same documents, bad input names its place."""

import bz2
import gzip
import hashlib
import json
import lzma
import sys

import pytest

from train.data import embedded_sets, sources, tables
from train.data.sources import Document

WORKS = [
    Document("a", "First work.\nTwo lines.\n"),
    Document("b", "Zweites Werk: 日本 🙂"),
    Document("c", "x"),
]
LINES = "\n".join(json.dumps({"name": w.name, "text": w.text}) for w in WORKS).encode() + b"\n"


def test_the_notice_describes_every_embedded_file():
    rows = [line.split("|") for line in (sources.EMBEDDED / "NOTICE.md").read_text().splitlines()]
    noted = {
        row[1].strip(" `"): row[5].strip(" `") for row in rows if len(row) == 7 and "`" in row[1]
    }
    files = {p for p in sources.EMBEDDED.rglob("*") if p.is_file() and p.name != "NOTICE.md"}
    files = {path for path in files if path.suffix != ".jinja"}  # our own templates
    assert set(noted) == {str(path.relative_to(sources.EMBEDDED)) for path in files}
    for name, digest in noted.items():
        assert hashlib.sha256((sources.EMBEDDED / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    "name,count,characters",
    [
        ("shakespeare", 42, 5057198),
        ("kjv", 66, 4181639),
        ("web", 66, 4023077),
        ("kjv_web", 132, 8204716),
        ("vader-movies", 10605, 1184906),
        ("vader-tweets", 4200, 334636),
        ("vader-amazon", 3708, 325327),
    ],
)
def test_embedded_sources_have_the_counted_sizes(name, count, characters):
    works = list(sources.documents(name))
    assert (len(works), sum(len(work.text) for work in works)) == (count, characters)
    assert len({work.name for work in works}) == count


def test_verses_are_in_their_books():
    pairs = embedded_sets.verse_pairs()
    assert len(pairs) == 31102
    starts = {}
    for book, kjv, _ in pairs:
        starts.setdefault(book, kjv)
    assert starts["Exodus"].startswith("Now these [are] the names of the children")
    assert starts["Ruth"].startswith("Now it came to pass in the days when the judges")
    assert starts["Mark"].startswith("The beginning of the gospel")
    assert starts["Revelation"].startswith("The Revelation of Jesus Christ")


def test_ratings_agree_with_the_raters():
    for name in embedded_sets.VADER:
        means, raw = embedded_sets.ratings(name), embedded_sets.raw_ratings(name)
        assert len(raw) == len(means)
        far = [key for key, mean, _ in means if abs(mean - sum(raw[key]) / len(raw[key])) > 0.02]
        assert len(far) == (195 if name == "vader-tweets" else 0)


@pytest.mark.parametrize(
    "suffix,pack",
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
def test_jsonl_in_every_compression(tmp_path, suffix, pack):
    path = tmp_path / f"works.jsonl{suffix}"
    path.write_bytes(pack(LINES))
    assert list(sources.documents(str(path))) == WORKS
    assert sources.fingerprint(str(path))[0]["size"] == path.stat().st_size


def test_parquet_gives_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "works.parquet"
    table = pyarrow.table(
        {"name": [w.name for w in WORKS], "text": [w.text for w in WORKS], "n": [1, 2, 3]}
    )
    parquet.write_table(table, path, row_group_size=2)
    assert list(sources.documents(str(path))) == WORKS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a readable Parquet"):
        list(sources.documents(str(path)))


def test_a_folder_is_read_in_order_and_keeps_every_character(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_bytes("\ufeffline\r\nend".encode())
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "ignored.png").write_bytes(b"\x89")
    found = list(sources.documents(str(tmp_path)))
    assert [work.name for work in found] == ["a.jsonl:a", "a.jsonl:b", "a.jsonl:c", "b.txt"]
    assert found[-1].text == "line\r\nend"


@pytest.mark.parametrize(
    "name,contents,match",
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl:2: not a line of JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', r"a.jsonl:2: a JSON list"),
        ("a.jsonl", b'{"body": "x"}\n', r"a.jsonl:1: no string .*fields: body"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', r"a.jsonl:1: a lone surrogate at character 1"),
        ("a.txt", b"abc\xff", r"a.txt is not UTF-8 text: bad byte at offset 3"),
        ("a.jsonl.xz", b"no archive", r"a.jsonl.xz cannot be read"),
        ("a.jsonl.gz", gzip.compress(LINES * 50)[:-30], r"a.jsonl.gz cannot be read"),
        ("a.jsonl", b"", r"holds no document"),
    ],
)
def test_bad_input_names_its_place(tmp_path, name, contents, match):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=match):
        list(sources.works(str(tmp_path / name)))


def test_a_suffix_is_read_whatever_its_letters(tmp_path):
    for name, made in (
        ("A.JSONL", LINES),
        ("b.ndjson", LINES),
        ("C.Jsonl.GZ", gzip.compress(LINES)),
    ):
        (tmp_path / name).write_bytes(made)
        assert list(sources.documents(str(tmp_path / name))) == WORKS
        assert [row["text"] for row in tables.read(str(tmp_path / name)).rows] == [
            work.text for work in WORKS
        ]
    (tmp_path / "D.TXT").write_text("four")
    (tmp_path / "noted.v2").write_text("no kind of text")
    found = [work.name for work in sources.documents(str(tmp_path))]
    assert found == [f"{f}:{w.name}" for f in ("A.JSONL", "C.Jsonl.GZ") for w in WORKS] + [
        "D.TXT",
        *(f"b.ndjson:{w.name}" for w in WORKS),
    ]


@pytest.mark.parametrize("read", [sources.documents, lambda path: tables.read(path).rows])
def test_a_damaged_archive_is_named(tmp_path, read):
    packed = bytearray(gzip.compress(LINES))
    for at in range(12, 40):
        packed[at] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    with pytest.raises(ValueError, match="a.jsonl.gz cannot be read: Error -3"):
        list(read(str(tmp_path / "a.jsonl.gz")))


def test_a_column_that_is_no_utf8_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pyarrow.array([b"a", b"b\xff"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet is not a readable Parquet file: 'utf-8' codec"):
        list(sources.documents(str(tmp_path / "a.parquet")))


def test_names_that_are_no_unicode_can_be_split():
    names = [f"w{n}" for n in range(60)]
    odd = [*names, "caf\udce9.txt", "\ud800"]
    assert set(sources.held_out(names)) <= set(sources.held_out(odd))


def test_unknown_sources_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'shakespeare'"):
        list(sources.documents("shakespear"))
    with pytest.raises(ValueError, match="no text, JSONL or Parquet"):
        list(sources.documents(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="no source ''"):  # not the working directory
        list(sources.documents(""))


def test_the_hub_is_an_extra_and_fails_in_a_sentence_offline(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs the extra hub"):
        list(sources.documents("hub:owner/name"))

    class Fake:
        calls = []

        @classmethod
        def load_dataset(cls, *args, **options):
            cls.calls.append((args, options))
            if args[0] == "off/line":
                raise ConnectionError("cannot reach\nmany lines")
            return iter([{"story": "one"}, {"story": "two", "id": 7}])

    monkeypatch.setitem(sys.modules, "datasets", Fake)
    assert list(sources.documents("hub:o/n:en:test:story")) == [
        Document("0", "one"),
        Document("7", "two"),
    ]
    assert Fake.calls == [(("o/n", "en"), {"split": "test", "streaming": True})]
    with pytest.raises(ValueError, match="ConnectionError: cannot reach.*\n.*Offline"):
        list(sources.documents("hub:off/line"))


def test_a_lone_document_is_cut_near_its_end(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("".join(f"line {n}\n" for n in range(1000)))
    first, last = sources.works(str(path))
    assert first.text + last.text == path.read_text() and first.text.endswith("\n")
    assert 0.04 < len(last.text) / len(path.read_text()) < 0.06
    assert sources.held_out([first.name, last.name], (), str(path)) == [1]


def test_held_out_works():
    names = ["kjv/Mark", "kjv/Luke", "web/Mark", "web/Luke"]
    assert sources.held_out(names, ("*/Mark",)) == [0, 2]
    assert sources.held_out(names, ("web/Luke", "kjv/Mark")) == [0, 3]
    assert sources.held_out(names, ("none",)) == []
    with pytest.raises(ValueError, match="did you mean 'kjv/Luke'"):
        sources.held_out(names, ("kjv/Luk",))
    with pytest.raises(ValueError, match="leaves no document"):
        sources.held_out(names, ("*",))
    many = [f"doc {n}" for n in range(2000)]
    chosen = sources.held_out(many)
    assert 60 < len(chosen) < 140
    assert [many[i] for i in chosen] == [
        n for n in reversed(many[::-1]) if n in {many[i] for i in chosen}
    ]
    assert len(sources.held_out(["only", "two"])) == 1
