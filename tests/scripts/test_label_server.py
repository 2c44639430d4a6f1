"""What the labelling page's server refuses in words, and the addresses that it takes."""

import json
import socket
import threading
import urllib.request

import pytest

from scripts.label import server as label_server
from scripts.label import store as label_store
from tests.scripts.test_label import ask, items, page  # noqa: F401


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"id": []}, "no such item"),
        ({"flags": [[[]], [], [], []]}, "flags: expected 4 lists"),
        ({"flags": [[{}], [], [], []]}, "flags: expected 4 lists"),
    ],
)
def test_values_of_another_kind_are_told(page, given, words):  # noqa: F811
    good = {"labeller": "ann", "id": items()[0]["id"], "ranks": [1, 2, 3, 4]}
    status, _, body = ask(page, "/api/answer", {**good, **given})
    assert status == 400 and words in json.loads(body)["error"]


def test_deep_json_is_told(page):  # noqa: F811
    status, _, body = ask(page, "/api/answer", b"[" * 60_000)
    assert status == 400 and "nested too deeply" in json.loads(body)["error"]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_an_ipv6_address_is_served(tmp_path, monkeypatch):
    store = label_store.Store(tmp_path / "l.jsonl", items())
    assert label_server.family("::1", 0) == socket.AF_INET6
    assert label_server.family("127.0.0.1", 0) == socket.AF_INET
    if not has_ipv6():  # the machine has no such address to bind: the rest is the name alone
        monkeypatch.setattr(label_server.Server, "server_bind", lambda self: None)
        monkeypatch.setattr(label_server.Server, "server_activate", lambda self: None)
        server = label_server.serve(store, "::1")
        server.server_address = ("::1", 5, 0, 0)
        assert server.url == "http://[::1]:5/"
        return server.server_close()
    server = label_server.serve(store, "::1")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert server.url == f"http://[::1]:{server.server_address[1]}/"
    with urllib.request.urlopen(server.url + "api/next?labeller=a") as found:
        assert json.load(found)["total"] == 3
    server.shutdown()
    server.server_close()


def test_hosts_are_read_with_and_without_a_port(page, tmp_path):  # noqa: F811
    for host in ("[::1]", "[::1]:80", "localhost", "127.0.0.1:1"):
        assert ask(page, "/api/next?labeller=a", Host=host)[0] == 200
    for host in ("evil", "[evil]", "::1]", "a@localhost", ""):
        assert ask(page, "/api/next?labeller=a", Host=host)[0] == 403
    with pytest.raises(ValueError, match="no address of this machine"):
        label_server.serve(label_store.Store(tmp_path / "m", []), "no such host", 0, "a" * 20)


def test_a_port_that_is_taken_is_said(tmp_path):
    first = label_server.serve(label_store.Store(tmp_path / "one", []))
    other, port = label_store.Store(tmp_path / "two", []), first.server_address[1]
    try:
        with pytest.raises(ValueError, match=f"--port {port} of 127.0.0.1 cannot be had: Address"):
            label_server.serve(other, port=port)
        assert other.held is None
    finally:
        first.server_close()
