"""Tables out of fetched data sets: mails without headers, Debian's descriptions, SQuAD's form."""

import json
from pathlib import Path

import pytest

from scripts.prepare import __main__ as prepare
from scripts.prepare import debian as tables_debian
from scripts.prepare import mail as tables_mail
from scripts.prepare import tables
from train.data.tables import read

WORDS = (
    "the quick brown fox jumps over the lazy dog while nine wizards mix a strong potion of herbs"
)


def mail(body, kind="text/plain", head="Subject: WIN MONEY\nX-Spam: yes"):
    return f"From a@b.c Thu Aug 22 2002\n{head}\nContent-Type: {kind}\n\n{body}\n"


def test_a_body_has_no_header_and_no_markup():
    assert tables_mail.body(mail("hello there")) == "hello there"
    page = "<html><style>p {x}</style><p>Buy &amp; save</p><script>evil()</script></html>"
    assert tables_mail.body(mail(page, "text/html")) == "Buy & save"
    encoded = mail(
        "caf=E9=\n s",
        'text/plain; charset="latin-1"',
        "Content-Transfer-Encoding: quoted-printable",
    )
    assert tables_mail.body(encoded) == "café s"
    both = mail(
        "--x\nContent-Type: text/plain\n\none\n--x\nContent-Type: image/png\n\nAAAA\n--x--",
        'multipart/mixed; boundary="x"',
    )
    assert tables_mail.body(both) == "one"


def test_an_unknown_charset_is_read_all_the_same():
    assert tables_mail.body(mail("plain", 'text/plain; charset="no-such"')) == "plain"


def test_near_duplicates_share_a_group():
    other = " ".join(reversed(WORDS.split()))
    groups = tables_mail.near([WORDS, other, WORDS + " and salt", "short", "Short!"])
    assert groups[0] == groups[2] and groups[3] == groups[4]
    assert len({groups[0], groups[1], groups[3]}) == 3


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debian")
    entries, english, german = [], [], []
    for n in range(40):
        name, source = f"lib{n}", f"src{n // 2}"
        entries.append(f"Package: {name}\nSource: {source} (1.0)\nSection: non-free/libs\n")
        english.append(
            f"Package: {name}\nDescription-md5: {n:032x}\nDescription-en: library number {n}\n"
            f" It does things,\n many of them ({n}).\n .\n  * one\n    and more\n  * two\n"
        )
        german.append(
            f"Package: {name}\nDescription-md5: {n:032x}\nDescription-de: Bibliothek Nummer {n}\n"
            f" Sie kann viel ({n}).\n" + (" .\n  * eins\n" if n % 4 else "")
        )
    (folder / "Packages").write_text("\n".join(entries))
    (folder / "Translation-en").write_text("\n".join([*english, english[0]]))
    (folder / "Translation-de").write_text("\n".join(german))
    return folder


def test_descriptions_are_unwrapped_and_distinct(debian):
    found = list(tables_debian.distinct(debian, "en"))
    assert len(found) == 40
    assert found[3].line == "library number 3"
    assert found[3].paragraphs == ("It does things, many of them (3).", "* one\n* two") or (
        found[3].paragraphs[0] == "It does things, many of them (3)."
    )
    assert tables_debian.packages(debian)["lib3"] == ("libs", "src1")


def test_sections_and_synopses_keep_a_source_together(debian):
    rows = list(tables.sections(debian, least=40))
    assert len(rows) == 40 and {row["label"] for row in rows} == {"libs"}
    assert not list(tables.sections(debian, least=41))
    pairs = list(tables.synopses(debian))
    assert {row["target"] for row in pairs} == {f"library number {n}" for n in range(40)}
    for n in range(0, 40, 2):
        assert pairs[n]["part"] == pairs[n + 1]["part"]


def test_translations_pair_only_what_has_as_many_paragraphs(debian):
    rows = list(tables.translations(debian, "de"))
    assert {"text": "library number 1", "target": "Bibliothek Nummer 1"} in [
        {k: row[k] for k in ("text", "target")} for row in rows
    ]
    assert not any(row["target"].endswith(" 4") for row in rows)


def test_parts_are_shares_of_the_keys():
    parts = [tables.part(f"package-{n}") for n in range(4000)]
    assert 0.88 < parts.count("train") / 4000 < 0.92
    assert parts.count("heldout") and parts.count("test")


def test_squad_answers_are_put_in_their_place(tmp_path):
    folder = tmp_path / "squad_shifts"
    folder.mkdir()
    question = {
        "id": "1", "question": "Who?", "answers": [{"text": " Ann", "answer_start": 2}],
    }  # fmt: skip
    data = [{"title": "T", "paragraphs": [{"context": "It is Ann.", "qas": [question]}]}]
    (folder / "squaddev_v1.1.json").write_text(json.dumps({"data": data}))
    (row,) = tables.squad(tmp_path)
    assert row["answers"] == {"text": [" Ann"], "answer_start": [5]} and row["group"] == "T"
    data[0]["paragraphs"][0]["context"] = "nobody"
    (folder / "squaddev_v1.1.json").write_text(json.dumps({"data": data}))
    with pytest.raises(ValueError, match="' Ann' is not near character 2"):
        list(tables.squad(tmp_path))


def test_the_command_writes_a_table_once_whole(tmp_path, debian, capsys):
    out = tmp_path / "made" / "pairs.jsonl.gz"
    assert prepare.main(["table", "synopses", "--source", str(debian), "--out", str(out)]) == 0
    assert "40 rows" in capsys.readouterr().out
    first = out.read_bytes()
    prepare.main(["table", "synopses", "--source", str(debian), "--out", str(out)])
    assert out.read_bytes() == first and not list(out.parent.glob("*.partial"))
    table = read(str(out))
    assert table.columns == ("text", "target", "part", "name")
    assert all(row["name"].startswith(f"{row['part']}/") for row in table.rows)


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["spam", "--source", "nowhere"], "no folder nowhere"),
        (["spam", "--source", "."], "no mails in easy-ham-1"),
        (["squad", "--source", "."], "prepare fetch bigbench"),
        (["sections", "--source", "."], "no file Packages"),
        (["sections", "--source", ".", "--out", "x.csv"], "ending in .jsonl"),
    ],
)
def test_what_is_missing_is_named(arguments, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        tables.main(arguments)
    assert not list(Path().rglob("*.partial"))
