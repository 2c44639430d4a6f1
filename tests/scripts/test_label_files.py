"""The labelling page's files: a full disk, torn lines, two servers, and lines that are no label."""

import errno
import json
import os
import threading

import pytest

from scripts.label import files
from scripts.label import server as label_server
from scripts.label import store as label_store
from tests.scripts.test_label import ask, items, judge, page  # noqa: F401


@pytest.fixture
def full(monkeypatch):
    """A disk that takes 30 bytes more, until the returned call empties it."""
    left, write = [30], os.write

    def some(file, data):
        if left and not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(file, data[: left[0]] if left else data)
        if left:
            left[0] -= count
        return count

    monkeypatch.setattr(files.os, "write", some)
    return left.clear


def test_a_full_disk_keeps_nothing_of_a_judgement(tmp_path, full):
    path = tmp_path / "l.jsonl"
    store = label_store.Store(path, items())
    with pytest.raises(OSError, match="No space"):
        judge(store, "ann", [1, 2, 3, 4])
    assert path.read_bytes() == b"" and not store.records()
    full()
    judge(store, "ann", [1, 2, 3, 4])
    assert [row["ranks"] for row in label_store.Store(path, items()).records()] == [[1, 2, 3, 4]]


def test_a_sync_that_fails_keeps_nothing_either(tmp_path, monkeypatch):
    path = tmp_path / "l.jsonl"
    store = label_store.Store(path, items())
    judge(store, "ann", [1, 2, 3, 4])
    before = path.read_bytes()

    def fails(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        store.undo("ann")
    assert path.read_bytes() == before and len(store.records()) == 1


def test_the_server_says_that_nothing_was_kept_and_goes_on(page, full):  # noqa: F811
    given = {"labeller": "ann", "id": items()[0]["id"], "ranks": [1, 2, 3, 4]}
    status, _, body = ask(page, "/api/answer", given)
    assert status == 507 and "the judgement was not kept: No space" in json.loads(body)["error"]
    full()
    assert ask(page, "/api/answer", given)[0] == 200
    assert len(label_store.Store(page.store.path, items()).records()) == 1


def test_a_last_line_that_lacks_its_end_alone_is_a_label(tmp_path, capsys):
    path = tmp_path / "l.jsonl"
    judge(label_store.Store(path, items()), "ann", [1, 2, 3, 4])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    again = label_store.Store(path, items())
    assert len(again.records()) == 1 and not capsys.readouterr().err
    judge(again, "ann", [1, 2, 3, 4])
    path.write_bytes(path.read_bytes()[:-9])
    assert len(label_store.Store(path, items()).records()) == 1
    assert "last line is torn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", "line 2 is no object"),
        ('{"undo": "x"}', "line 2 lacks labeller"),
        ('{"labeller": "ann", "id": "x", "prompt": "p"}', "line 2 lacks answers, ranks"),
        ('{"labeller": 1, "undo": "x"}', "line 2: labeller is '1'; expected text"),
        (
            '{"labeller": "a", "id": "x", "prompt": "p", "answers": ["b", "c"], "ranks": [1]}',
            "ranks is .*; expected a whole number for each answer",
        ),
    ],
)
def test_a_line_that_is_no_label_is_named(tmp_path, line, words):
    path = tmp_path / "l.jsonl"
    judge(label_store.Store(path, items()), "ann", [1, 2, 3, 4])
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"l\.jsonl, {words}|l\.jsonl, line 2: {words}"):
        label_store.Store(path, items())


def test_one_server_has_a_file(tmp_path):
    path = tmp_path / "l.jsonl"
    first = label_server.serve(label_store.Store(path, items()))
    with pytest.raises(ValueError, match="in use by another labelling page"):
        label_server.serve(label_store.Store(path, items()))
    first.server_close()
    assert not path.exists(), "nothing was said, so that nothing stays"
    label_server.serve(label_store.Store(path, items())).server_close()


def test_records_wait_for_a_judgement_that_is_being_kept(tmp_path):
    store = label_store.Store(tmp_path / "l.jsonl", items())
    with store.lock:
        found = threading.Thread(target=store.records, daemon=True)
        found.start()
        found.join(0.2)
        assert found.is_alive()
    found.join(5)
    assert not found.is_alive()


def test_ranks_are_dense_where_they_are_exported(tmp_path):
    store = label_store.Store(tmp_path / "l.jsonl", items())
    judge(store, "ann", [3, 3, 4, 4])
    assert store.records()[0]["ranks"] == [3, 3, 4, 4]
    assert label_store.rankings(store.records())[0]["ranks"] == [1, 1, 2, 2]


def test_half_a_surrogate_pair_is_kept(tmp_path):
    files.append(tmp_path / "l", {"a": "\ud800"})
    assert json.loads((tmp_path / "l").read_text()) == {"a": "\ud800"}
