"""A labelling session by keyboard in headless Chromium, up to the reward model's data."""

import threading

import pytest

from scripts.instruct import page as instruct_page
from scripts.label import __main__ as label
from scripts.label import browser
from scripts.label import server as label_server
from scripts.label import store as label_store
from tests.scripts.test_label import HOSTILE, items
from train.data import preferences, tables

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


@pytest.fixture
def session(tmp_path):
    """(page, store, file) of three items with four answers, one of them hostile."""
    store = label_store.Store(tmp_path / "l.jsonl", items())
    server = label_server.serve(store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with browser.Page(f"http://127.0.0.1:{server.server_address[1]}/", "ann") as page:
            yield page, store, tmp_path / "l.jsonl"
    finally:
        server.shutdown()
        server.server_close()


def test_a_whole_session_by_keyboard(session, tmp_path):
    page, store, path = session
    wanted = {}
    for done in range(3):
        assert page.count() == f"{done} of 3"
        prompt, answers = page.shown()
        assert len(answers) == 4 and HOSTILE in answers
        assert not page.find("#send").is_enabled(), "nothing is kept before every answer has a rank"
        wanted[prompt] = {text: 1 + "abc<".index(text[0]) for text in answers}
        if prompt == "p1":
            page.type("!f")  # shift and 1: a score of one to the first answer; its questions open
            assert page.find("#answers li.chosen details").get_attribute("open")
            page.find("#answers li.chosen input").click()
            wanted[prompt] |= dict.fromkeys(("b1", "c1"), 2)
        page.rank([wanted[prompt][text] for text in answers])
    assert page.finished() and page.count() == "3 of 3"
    held = {row["prompt"]: dict(zip(row["answers"], row["ranks"], strict=True)) for row in store.records()}  # fmt: skip
    assert held == wanted
    second = next(row for row in store.records() if row["prompt"] == "p1")
    assert sorted(second["scores"]) == [0, 0, 0, 1]
    assert second["flags"][second["scores"].index(1)] == [0]

    page.type("u")
    page.until(lambda: page.count() == "2 of 3")
    prompt, answers = page.shown()
    page.rank([wanted[prompt][text] for text in reversed(answers)])
    assert len(path.read_text().splitlines()) == 5, "nothing that was said is ever removed"
    out = tmp_path / "rankings.jsonl"
    assert label.main(["--labels", str(path), "--export", str(out)]) == 0
    read = preferences.read(tables.read(str(out)), {"data": {}})
    assert sorted(item.better.sum() for item in read) == [5, 6, 6]
    assert not page.errors()


def test_a_hostile_answer_is_text(session):
    page, _, _ = session
    assert not page.browser.find_elements("css selector", "#answers img, #prompt img")
    visible = [box.text for box in page.browser.find_elements("css selector", "#answers .text")]
    assert HOSTILE in visible
    refused = page.browser.execute_script(
        "const made = document.createElement('script'); made.textContent = 'window.ran = true';"
        "document.body.append(made); return window.ran === undefined"
    )
    assert refused and "Content Security Policy" in page.errors()[0]


def test_a_chat_is_shown_as_turns(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": HOSTILE}]
    answers = ["a", "b", "c", "d"]
    item = {"id": label_store.identity(chat, answers), "prompt": chat, "answers": answers}
    server = label_server.serve(label_store.Store(tmp_path / "l.jsonl", [item]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with browser.Page(server.url, "ann") as page:
            boxes = page.browser.find_elements("css selector", "#prompt .turn")
            assert [box.text for box in boxes] == ["system\nBe brief.", f"user\n{HOSTILE}"]
            assert not page.browser.find_elements("css selector", "#prompt img")
            page.rank([1, 2, 3, 4])
            assert page.finished() and page.shown() == ("", []) and not page.errors()
    finally:
        server.shutdown()
        server.server_close()
    assert server.store.records()[0]["prompt"] == chat


def test_keys_in_the_name_are_letters_alone(session):
    page, store, _ = session
    page.find("#name").click()
    page.browser.find_element("css selector", "#name").send_keys("u1j")
    assert page.find("#name").get_attribute("value") == "annu1j"
    assert page.count() == "0 of 3" and not store.records()


def test_a_program_labels_through_the_page(tmp_path):
    rows = [
        {"prompt": item["prompt"], "answers": item["answers"], "ranks": ranks}
        for item, ranks in zip(items(2), ([4, 1, 2, 2], [1, 2, 3, 4]), strict=True)
    ]
    rows.append({"prompt": "p0", "answers": ["a0", "x", "y", "z"], "ranks": [1, 2, 3, 4]})
    made = instruct_page.labelled(tmp_path / "l.labels", rows)
    assert [row["ranks"] for row in made] == [[3, 1, 2, 2], [1, 2, 3, 4], [1, 2, 3, 4]]  # dense
    for name in ("prompt", "answers"):
        assert [row[name] for row in made] == [row[name] for row in rows]
    assert made[0]["labeller"] == "program"
    assert instruct_page.labelled(tmp_path / "l.labels", rows) == made, "a session goes on"
    with pytest.raises(ValueError, match="cannot tell apart"):
        instruct_page.labelled(tmp_path / "m.labels", [rows[0], rows[0]])
