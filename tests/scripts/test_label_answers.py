"""The answers that are judged: what is kept of them, what they were made from, and chats."""

import json

import pytest

from scripts.label import __main__ as label
from scripts.label import answers, files
from scripts.label import store as label_store
from tests.scripts.test_label import judge
from tests.scripts.test_sample import folder  # noqa: F401
from train.data import preferences, prompts, tables

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<b>Why?</b>"}]
FOUR = ["a", "b", "c", "d"]


@pytest.fixture
def given(tmp_path, monkeypatch):
    """arguments(rows, answers, *options): a command about a file of prompts, a model that says `answers`."""

    def arguments(rows, said, *options):
        table = tmp_path / "prompts.jsonl"
        table.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
        made = [[(text, text != "cut") for text in texts] for texts in said]
        monkeypatch.setattr(answers, "written", lambda a, found: made)
        known = ["--labels", str(tmp_path / "l.jsonl"), "--prompts", str(table), "--from", "m"]
        return label.arguments([*known, *options])

    return arguments


def test_a_chat_stays_a_list_of_messages(given, tmp_path):
    a = given([CHAT, "p"], [FOUR, FOUR], "--chat")
    store = label_store.Store(a.labels, answers.sampled(a))
    assert answers.sampled(a) == list(store.items.values())
    assert store.next("ann")["prompt"] == CHAT
    for _ in range(2):
        judge(store, "ann", [1, 2, 3, 4])
    out = [tmp_path / "r.jsonl", tmp_path / "p.jsonl"]
    label.main(["--labels", a.labels, "--export", str(out[0]), "--pairs", str(out[1])])
    for path in out:
        read = preferences.read(tables.read(str(path)), {"data": {}})
        assert [item.prompt for item in read] == [CHAT, "p"]
    assert prompts.read(tables.read(str(a.prompts)), {"data": {}})[0].text == CHAT


def test_messages_without_a_template_are_refused(given):
    a = given(["p", CHAT], [FOUR, FOUR])
    with pytest.raises(ValueError, match="line 2: the prompt is a list of messages.*--chat"):
        answers.sampled(a)
    a = given([[{"content": "x"}]], [FOUR], "--chat")
    with pytest.raises(ValueError, match="line 1: message 0 of the chat has no role"):
        answers.sampled(a)


def test_a_model_answers_chats_by_its_template_and_texts_without(folder, tmp_path):  # noqa: F811
    for name, row, options in (("c", CHAT, ["--chat"]), ("t", "Why?", [])):
        table = tmp_path / f"{name}.jsonl"
        table.write_text(json.dumps({"prompt": row}) + "\n")
        known = ["--labels", str(tmp_path / name), "--prompts", str(table), "--from", str(folder)]
        a = label.arguments([*known, "--max_new_tokens", "8", *options])
        (item,) = answers.sampled(a)
        assert item["prompt"] == row and 2 <= len(item["answers"]) <= 4
        assert answers.sampled(a) == [item]


def test_answers_do_not_depend_on_how_many_are_sampled_at_a_time(folder, tmp_path, monkeypatch):  # noqa: F811
    table = tmp_path / "p.jsonl"
    table.write_text("".join(json.dumps({"prompt": f"Why {n}?"}) + "\n" for n in range(3)))
    found = []
    for rows in (answers.ROWS, 8):  # all at once, then two prompts and one
        monkeypatch.setattr(answers, "ROWS", rows)
        known = [
            "--labels",
            str(tmp_path / f"{rows}"),
            "--prompts",
            str(table),
            "--from",
            str(folder),
        ]
        found.append(answers.sampled(label.arguments([*known, "--max_new_tokens", "8"])))
    assert found[0] == found[1] and len(found[0]) == 3
    assert all(len(item["ended"]) == len(item["answers"]) for item in found[0])


def test_fewer_answers_are_told(given, capsys):
    a = given(["p", "q", "r"], [FOUR, ["a", "a", "b", " "], ["a"] * 4])
    assert [len(item["answers"]) for item in answers.sampled(a)] == [4, 2]
    said = capsys.readouterr().err
    assert "2 of 3 prompts have fewer than 4 distinct answers; 1 of them" in said
    assert len(answers.sampled(a)) == 2 and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "1"], "made with --seed 0, not --seed 1"),
        (["--answers", "5"], "--answers 4, not --answers 5"),
        (["--temperature", "0.5"], "--temperature 1.0, not --temperature 0.5"),
        (["--max_new_tokens", "9"], "--max_new_tokens 64, not --max_new_tokens 9"),
        (["--from", "n"], "--from m, not --from n"),
        (["--chat"], "no --chat, not --chat"),
    ],
)
def test_other_answers_are_not_asked_for_in_vain(given, options, words):
    a = given(["p"], [FOUR])
    items = answers.sampled(a)
    assert answers.sampled(a) == answers.sampled(label.arguments(["--labels", a.labels])) == items
    with pytest.raises(ValueError, match=words):
        answers.sampled(given(["p"], [FOUR], *options))
    if options[0] not in ("--from", "--chat"):
        with pytest.raises(ValueError, match=words):
            answers.sampled(label.arguments(["--labels", a.labels, *options]))


def test_other_prompts_are_told(given, tmp_path):
    a = given(["p"], [FOUR])
    items = answers.sampled(a)
    (tmp_path / "moved.jsonl").write_bytes((tmp_path / "prompts.jsonl").read_bytes())
    a.prompts = str(tmp_path / "moved.jsonl")
    assert answers.sampled(a) == items, "the same prompts under another name"
    with pytest.raises(ValueError, match="says other things now"):
        answers.sampled(given(["q"], [FOUR]))


def test_an_older_file_is_read(given):
    a = given(["p"], [FOUR], "--seed", "3")
    items = [{"id": label_store.identity("p", FOUR), "prompt": "p", "answers": FOUR}]
    files.write(answers.beside(a.labels), items)
    assert answers.sampled(a) == items


def test_a_chat_in_an_older_file_is_its_messages(given, tmp_path):
    a = given([CHAT, '[{"a": 1}]'], [FOUR, FOUR], "--chat")
    old = [
        {"id": str(n), "prompt": p, "answers": FOUR}
        for n, p in enumerate((json.dumps(CHAT), '[{"a": 1}]'))
    ]
    files.write(answers.beside(a.labels), old)
    store = label_store.Store(a.labels, old)
    judge(store, "ann", [1, 2, 3, 4])  # of the older version: text
    store = label_store.Store(a.labels, answers.sampled(a))
    assert [item["prompt"] for item in store.items.values()] == [CHAT, '[{"a": 1}]']
    judge(store, "bob", [1, 2, 3, 4])
    judge(store, "bob", [1, 2, 3, 4])
    label.main(["--labels", a.labels, "--export", str(tmp_path / "r.jsonl")])
    found = preferences.read(tables.read(str(tmp_path / "r.jsonl")), {"data": {}})
    assert [item.prompt for item in found] == [CHAT, '[{"a": 1}]']
    assert found[0].shared[1] == 6  # both labellers' pairs are about one prompt


def test_a_torn_file_is_an_error(given):
    a = given(["p", "q"], [FOUR, FOUR])
    answers.sampled(a)
    path = answers.beside(a.labels)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="the last line is torn"):
        answers.sampled(a)
    path.write_bytes(b"".join(whole.splitlines(True)[:2]))
    with pytest.raises(ValueError, match="has 1 items; expected 2"):
        answers.sampled(a)
    path.write_bytes(whole + b'{"id": "x"}\n')
    with pytest.raises(ValueError, match="line 4 lacks prompt, answers"):
        answers.sampled(a)


def test_a_file_of_answers_is_whole_or_not_there(given, monkeypatch):
    a = given(["p"], [FOUR])

    def fails(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        answers.sampled(a)
    assert not list(answers.beside(a.labels).parent.glob("*answers*"))


def test_a_file_that_is_in_use_is_not_sampled_for(given, monkeypatch):
    a = given(["p"], [FOUR])
    store = label_store.Store(a.labels, [])
    store.hold()
    with pytest.raises(ValueError, match="in use"):
        label.main(["--labels", a.labels, "--prompts", a.prompts, "--from", "m"])
    assert not answers.beside(a.labels).exists()
    store.release()
