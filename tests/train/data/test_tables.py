"""Tables of every kind, the same rows from each, and what is said of a bad one."""

import gzip
import json
import sys
import types

import pyarrow as pa
import pytest
from pyarrow import parquet

from train.data import tables

ROWS = [{"text": 'a "quoted",\ncell', "label": "x"}, {"text": "plain", "label": "y"}]
SQUAD = {
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "ab cd",
                    "qas": [
                        {"id": 1, "question": "q", "answers": [{"text": "cd", "answer_start": 3}]},
                        {"id": 2, "question": "r", "is_impossible": True, "answers": []},
                    ],
                }
            ],
        }
    ]
}


def write(folder, kind):
    path = folder / f"t{kind}"
    if kind == ".csv":
        path.write_text('text,label\n"a ""quoted"",\ncell",x\nplain,y\n')
    elif kind == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))
    elif kind == ".json":
        path.write_text(json.dumps(ROWS))
    elif kind == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_every_kind_gives_the_same_rows(tmp_path, kind):
    table = tables.read(str(write(tmp_path, kind)))
    assert table.rows == ROWS and table.columns == ("text", "label")
    assert table.column("label") == ["x", "y"] and table.take([1]).rows == ROWS[1:]


def test_tsv_has_no_quotes(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('text\tlabel\nit said "so\t1\n')
    table = tables.read(str(path))
    assert table.rows == [{"text": 'it said "so', "label": "1"}]
    assert table.where(0).endswith("t.tsv, line 2")


def test_a_csv_row_is_named_by_the_line_where_it_ends(tmp_path):
    assert tables.read(str(write(tmp_path, ".csv"))).lines == [3, 4]


def test_squad_becomes_flat_rows(tmp_path):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(SQUAD))
    table = tables.read(str(path))
    assert [row["id"] for row in table.rows] == ["1", "2"]
    assert table.rows[0]["answers"] == {"text": ["cd"], "answer_start": [3]}
    assert table.rows[1]["answers"] == {"text": [], "answer_start": []}


def test_the_embedded_ratings():
    table = tables.read("vader-movies")
    assert len(table) == 10043 and set(table.column("label")) == {"positive", "negative"}
    assert all((row["mean"] > 0.5) == (row["label"] == "positive") for row in table.rows)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "text,label\nx\n", "line 2: 1 fields; the header has 2: text, label"),
        ("a.csv", "text,text\nx,y\n", "each once"),
        ("a.csv", 'text\n"open\n', "line 2"),
        ("a.csv", "text\n", "has no row"),
        ("a.jsonl", '{"text": 1}\n{bad\n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: a list, expected an object"),
        ("a.json", "{}", "neither a list"),
        ("a.json", '{"data": [{"x": 1}]}', "SQuAD's form"),
        ("a.parquet", "no", "not a readable Parquet"),
        ("a.xls", "x", "is no kind of table"),
    ],
)
def test_a_bad_table_is_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        tables.read(str(tmp_path / name))


def test_a_bad_column_is_named(tmp_path):
    table = tables.read(str(write(tmp_path, ".csv")))
    with pytest.raises(ValueError, match="no column 'labl'; did you mean \"label\""):
        table.column("labl")
    table.rows[1]["label"] = None
    with pytest.raises(ValueError, match=r"line 4: column 'label' holds 'None' \(NoneType\)"):
        table.column("label")


def test_a_missing_table_is_named():
    with pytest.raises(FileNotFoundError, match="vader-movies"):
        tables.read("nowhere.csv")


def test_a_hub_data_set(monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        if name == "o/missing":
            raise ConnectionError("offline")
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert tables.read("hub:o/n:cola:validation").rows == ROWS
    assert tables.read("hub:o/n").rows == ROWS
    assert asked == [("o/n", "cola", "validation"), ("o/n", None, "train")]
    with pytest.raises(ValueError, match="Offline"):
        tables.read("hub:o/missing")
