"""The labelling page: nothing lost, blind and shuffled, undo, export, and what the server refuses."""

import json
import re
import socket
import threading
import urllib.error
import urllib.request

import pytest

from scripts.label import __main__ as label
from scripts.label import server as label_server
from scripts.label import store as label_store
from train.data import preferences, tables

HOSTILE = "<img src=x onerror=alert(1)>"


def items(count=3):
    made = []
    for n in range(count):
        answers = [f"a{n}", f"b{n}", f"c{n}", HOSTILE]
        made.append({"prompt": f"p{n}", "answers": answers})
    return [{"id": label_store.identity(m["prompt"], m["answers"]), **m} for m in made]


def judge(store, who, wanted):
    """Ranks the next item so that the stored ranks are `wanted`."""
    shown = store.next(who)
    order = store.order(who, shown["id"])
    store.answer({"labeller": who, "id": shown["id"], "ranks": [wanted[at] for at in order]})


def test_ranks_come_back_to_the_answers_that_they_were_given_to(tmp_path):
    store = label_store.Store(tmp_path / "l.jsonl", items())
    shown = store.next("ann")
    first = store.items[shown["id"]]["answers"]
    ranks = [first.index(answer["text"]) + 1 for answer in shown["answers"]]
    store.answer({"labeller": "ann", "id": shown["id"], "ranks": ranks})
    assert store.records()[0]["ranks"] == [1, 2, 3, 4]
    orders = {tuple(store.order(who, name)) for who in "abcdef" for name in store.items}
    assert len(orders) > 5, "the place says nothing of where an answer came from"
    assert set(shown) == {"id", "prompt", "answers", "done", "total"}


def test_nothing_is_lost_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "l.jsonl"
    store = label_store.Store(path, items())
    judge(store, "ann", [1, 2, 3, 4])
    judge(store, "ann", [4, 3, 2, 1])
    with open(path, "ab") as file:
        file.write(b'{"id": "torn')
    again = label_store.Store(path, items())
    assert [row["ranks"] for row in again.records()] == [[1, 2, 3, 4], [4, 3, 2, 1]]
    assert again.next("ann")["done"] == 2
    judge(again, "ann", [1, 1, 2, 2])
    assert len(label_store.Store(path, items()).records()) == 3
    assert again.next("ann") == {"finished": True, "done": 3, "total": 3}


def test_undo_takes_back_the_last_and_keeps_the_lines(tmp_path):
    path = tmp_path / "l.jsonl"
    store = label_store.Store(path, items())
    judge(store, "ann", [1, 2, 3, 4])
    first = store.records()[0]["id"]
    assert store.undo("ann") == first and store.next("ann")["id"] == first
    judge(store, "ann", [2, 1, 3, 4])
    assert len(path.read_text().splitlines()) == 3
    assert label_store.Store(path, items()).records()[0]["ranks"] == [2, 1, 3, 4]
    assert store.undo("bob") == ""


def test_the_export_is_what_a_reward_model_reads(tmp_path):
    path = tmp_path / "l.jsonl"
    store = label_store.Store(path, items())
    for ranks in ([1, 2, 2, 3], [4, 3, 2, 1]):
        judge(store, "ann", ranks)
    judge(store, "bob", [1, 2, 3, 2])
    out = [tmp_path / "r.jsonl", tmp_path / "p.jsonl"]
    label.main(["--labels", str(path), "--export", str(out[0]), "--pairs", str(out[1])])
    read = lambda file: preferences.read(tables.read(str(file)), {"data": {}})
    ranked, paired = map(read, out)
    assert {item.prompt for item in ranked} == {"p0", "p1"}
    assert sum(item.better.sum() for item in ranked if item.prompt == "p1") == 6
    for one, other in zip(
        *(sorted(x, key=lambda item: item.prompt) for x in (ranked, paired)), strict=True
    ):
        assert one.answers == other.answers and (one.better == other.better).all()
    found = label_store.agreement(store.records())
    assert (found["agree"], found["pairs"]) == (3, 4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labeller": ""}, "labeller"),
        ({"id": "x"}, "no such item"),
        ({"ranks": [1, 2, 3]}, "ranks: expected 4"),
        ({"ranks": [1, 2, 3, 5]}, "from 1 to 4"),
        ({"ranks": [1, 2, 3, True]}, "whole numbers"),
        ({"scores": [8, 1, 1, 1]}, "scores"),
        ({"flags": [[99], [], [], []]}, "flags"),
        ({"flags": [[2.0], [], [], []]}, "flags"),
        ({"flags": [[True], [], [], []]}, "flags"),
        ({"flags": [[1, 1], [], [], []]}, "flags"),
        ({"flags": [[[]], [], [], []]}, "flags"),
        ({"id": []}, "no such item"),
    ],
)
def test_bad_judgements_are_refused(tmp_path, given, words):
    store = label_store.Store(tmp_path / "l.jsonl", items())
    good = {"labeller": "ann", "id": items()[0]["id"], "ranks": [1, 2, 3, 4]}
    with pytest.raises(ValueError, match=words):
        store.answer({**good, **given})
    assert not (tmp_path / "l.jsonl").exists()
    store.answer(good)
    with pytest.raises(ValueError, match="answered already"):
        store.answer(good)


@pytest.fixture
def page(tmp_path):
    store = label_store.Store(tmp_path / "l.jsonl", items())
    server = label_server.serve(store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path, body=None, **headers):
    """(status, headers, body) of a call."""
    address = f"http://127.0.0.1:{server.server_address[1]}{path}"
    data = (
        None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
    )
    headers = {
        "Content-Type": "application/json",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers)) as found:
            return found.status, found.headers, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_a_session_over_the_wire(page):
    status, headers, body = ask(page, "/")
    assert status == 200 and "script-src 'self'" in headers["Content-Security-Policy"]
    assert b"<script>" not in body and not re.search(rb"\son\w+=", body)
    shown = json.loads(ask(page, "/api/next?labeller=ann")[2])
    assert HOSTILE in [answer["text"] for answer in shown["answers"]]
    given = {"labeller": "ann", "id": shown["id"], "ranks": [1, 2, 3, 3], "scores": [7, 1, 1, 1]}
    assert ask(page, "/api/answer", given)[0] == 200
    assert json.loads(ask(page, "/api/next?labeller=ann")[2])["done"] == 1
    assert json.loads(ask(page, "/api/undo", {"labeller": "ann"})[2]) == {"undone": shown["id"]}
    assert json.loads(ask(page, "/api/agreement")[2])["share"] is None


def test_texts_are_put_in_as_text():
    script = (label_server.STATIC / "label.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", script)
    assert "textContent" in script


def test_what_the_server_refuses(page):
    assert ask(page, "/etc/passwd")[0] == 404
    assert ask(page, "/../label.py")[0] == 404
    assert ask(page, "/api/answer", b"{")[0] == 400
    assert ask(page, "/api/answer", b"[]")[0] == 400
    assert ask(page, "/api/answer", b"{}", Content_Type="text/plain")[0] == 415
    assert ask(page, "/api/next?labeller=a", Host="evil.example")[0] == 403
    with socket.create_connection(page.server_address) as raw:
        raw.sendall(b"POST /api/undo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 99999999\r\n\r\n")  # fmt: skip
        assert b" 413 " in raw.recv(200)


def test_beyond_loopback_a_token_is_needed(tmp_path, page):
    store = label_store.Store(tmp_path / "m.jsonl", items())
    with pytest.raises(ValueError, match="at least 16 characters"):
        label_server.serve(store, "0.0.0.0", 0, "short")
    page.token = "a" * 20
    assert ask(page, "/api/next?labeller=a")[0] == 401
    assert ask(page, "/api/next?labeller=a", X_Token="a" * 20)[0] == 200


def test_calls_are_limited():
    now = [0.0]
    rate = label_server.Rate(lambda: now[0])
    assert [rate.passes("a") for _ in range(41)] == [True] * 40 + [False]
    assert rate.passes("b")
    now[0] = 0.5
    assert rate.passes("a")


def test_progress_is_of_the_items_at_hand(tmp_path):
    """Labels may be left from other answers, where their file was removed and sampled anew."""
    judge(label_store.Store(tmp_path / "l.jsonl", items(2)), "ann", [1, 2, 3, 4])
    other = label_store.Store(tmp_path / "l.jsonl", items(3)[2:])
    assert (other.next("ann")["done"], other.next("ann")["total"]) == (0, 1)


def test_an_export_takes_no_file_s_place(tmp_path):
    store = label_store.Store(tmp_path / "l.jsonl", items(1))
    judge(store, "ann", [1, 2, 3, 4])
    labels, whole = str(store.path), store.path.read_bytes()
    beside = tmp_path / "l.jsonl.answers.jsonl"
    beside.write_text("kept")
    (tmp_path / "link.jsonl").symlink_to(store.path)
    (tmp_path / "hard.jsonl").hardlink_to(store.path)
    other = str(tmp_path / "out.jsonl")
    for options, words in (
        (["--export", labels], "is the file of --labels"),
        (["--pairs", str(tmp_path / "x" / ".." / "l.jsonl")], "is the file of --labels"),
        (["--pairs", str(tmp_path / "link.jsonl")], "is the file of --labels"),
        (["--pairs", str(tmp_path / "hard.jsonl")], "is the file of --labels"),
        (["--export", str(beside)], "is the file of the answers"),
        (["--export", other, "--pairs", other], "is the file of --export"),
        (["--pairs", str(tmp_path / "out.csv")], "rows of JSON are written; expected .jsonl"),
    ):
        with pytest.raises(ValueError, match=words):
            label.main(["--labels", labels, *options])
        assert store.path.read_bytes() == whole and beside.read_text() == "kept"
    label.main(["--labels", labels, "--export", other])
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="give --prompts and --from"):
        label.main(["--labels", str(tmp_path / "l.jsonl")])
    with pytest.raises(ValueError, match="expected 4 to 9"):
        label.main(["--labels", str(tmp_path / "l"), "--prompts", "x", "--from", "y",
                    "--answers", "3"])  # fmt: skip
    with pytest.raises(FileNotFoundError, match="nothing was labelled"):
        label.main(["--labels", str(tmp_path / "l"), "--export", "x"])
