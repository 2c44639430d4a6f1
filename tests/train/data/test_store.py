"""The token store: the same stream as from memory, and every damage named before it is read."""

import errno
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xxhash

from scripts.prepare import shards
from train.core import errors
from train.data import store, text, tokenizer
from train.data.corpus import Memory
from train.data.store import Store


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "works.jsonl"
    rows = [
        {"name": f"w{n}", "text": f"{'été 🙂 '[: n % 5]}work {n} " * (n % 9)} for n in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "out"
    shards.prepare(source, "bpe:300", folder, characters=500)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def settings(source, **data):
    data = {"source": str(source), "tokenizer": "", **data}
    return {"seed": 1, "batch": 3, "length": 12, "data": data}


@pytest.mark.parametrize("packing", ["contiguous", "documents"])
def test_the_store_gives_the_stream_of_its_source(source, made, packing):
    wanted = settings(made, packing=packing)
    own = text.load_tokenizer(wanted)
    assert own.kind == "bpe" and own.vocab <= 300
    assert len(store.read_record(made)["shards"]) > 3
    stored = text.open_stream(wanted, own)
    memory = text.open_stream(settings(source, packing=packing), own)
    for step in range(40):
        left, right = stored.batch(step), memory.batch(step)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    left, right = (text.heldout(c, own, 12, 3) for c in (wanted, settings(source)))
    left.pop("batches"), right.pop("batches")
    assert left == right and left["bytes"] > left["characters"] > 0
    json.dumps(stored.fingerprint)


def test_a_small_vocabulary_is_stored_in_two_bytes(made, source, tmp_path):
    record = store.read_record(made)
    assert sum(s["tokens"] for s in record["shards"]) == record["tokens"]
    for shard in record["shards"]:
        assert (made / shard["file"]).stat().st_size == 2 * shard["tokens"]
    wide = tokenizer.gpt2()
    fake = SimpleNamespace(vocab=70_000, eos=69_999, hash="h")
    fake.encode_batch = lambda texts, special: [wide.encode(t) + 60_000 for t in texts]
    sidecar = store.write_shard(tmp_path, 0, list(shards.sources.works(source)), fake, "u")
    assert sidecar["dtype"] == "uint32" and sidecar["size"] == 4 * sidecar["tokens"]


def test_reads_cross_shards(made, source):
    opened, memory = Store(made), Memory(source, tokenizer.Tokenizer.load(made / "tokenizer"))
    np.testing.assert_array_equal(opened.read(0, opened.tokens), memory.array)
    for start, stop in ((0, 1), (5, 5), (100, 900), (opened.tokens - 1, opened.tokens)):
        np.testing.assert_array_equal(opened.read(start, stop), memory.array[start:stop])


def cut(path):
    os.truncate(path, path.stat().st_size - 2)


def flip(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def edit(field, value):
    def change(path):
        record = json.loads(path.read_text())
        record[field] = value
        path.write_text(json.dumps(record))

    return change


@pytest.mark.parametrize(
    "file,damage,match",
    [
        ("shard-00001.bin", cut, "shard-00001.bin has .* truncated or altered"),
        ("shard-00001.bin", flip, "shard-00001.bin was altered"),
        ("shard-00001.bin", os.remove, "shard-00001.bin is missing"),
        ("shard-00001.index", cut, "shard-00001.index has .* not what its sidecar says"),
        ("shard-00001.index", flip, "shard-00001.index was altered"),
        ("shard-00001.index", os.remove, "shard-00001.index is missing"),
        ("shard-00001.names", flip, "shard-00001.names was altered"),
        ("shard-00001.json", os.remove, "shard-00001.json is missing"),
        ("shard-00001.json", cut, "shard-00001.json is damaged"),
        ("shard-00001.json", edit("tokens", 10**15), "truncated or altered"),
        ("shard-00001.json", edit("tokens", -1), "tokens = -1"),
        ("shard-00001.json", edit("dtype", "O"), "wrong file name or dtype"),
        ("shard-00001.json", edit("tokenizer", "x"), "another tokenizer than the store"),
        ("shard-00001.json", edit("xxh3", "x"), "not the shard in store.json"),
        ("store.json", os.remove, "not a finished token store"),
        ("store.json", cut, "store.json is damaged"),
        ("store.json", edit("format", 9), "has format 9, this is format 1"),
        ("store.json", edit("eos", "x"), "'eos' is missing or not a int"),
        ("store.json", edit("vocab", 9), "damaged: vocab = 9, its tokenizer has"),
        ("store.json", edit("heldout", [1]), "'heldout' holds .1., not names"),
        (
            "store.json",
            edit("shards", [{"file": "../x.bin", "xxh3": ""}]),
            "not the name of a shard",
        ),
    ],
)
def test_damage_is_named_in_a_sentence(copy, file, damage, match):
    damage(copy / file)
    with pytest.raises((ValueError, FileNotFoundError), match=match) as caught:
        text.open_stream(settings(copy), tokenizer.Tokenizer.load(copy / "tokenizer"))
    assert str(caught.value).count("\n") < 3


def test_tokens_outside_the_vocabulary_are_refused(copy):
    """An embedding would take them for its last row without a word."""
    own = tokenizer.Tokenizer.load(copy / "tokenizer")
    file = copy / "shard-00001.bin"
    tokens = np.frombuffer(file.read_bytes(), "<u2").copy()
    tokens[2] = own.vocab
    file.write_bytes(tokens.tobytes())
    digest = xxhash.xxh3_128_hexdigest(file.read_bytes())
    edit("xxh3", digest)(copy / "shard-00001.json")
    record = json.loads((copy / "store.json").read_text())
    record["shards"][1]["xxh3"] = digest
    (copy / "store.json").write_text(json.dumps(record))
    match = f"shard-00001.bin holds token {own.vocab}; its tokenizer has {own.vocab} tokens"
    with pytest.raises(ValueError, match=match):
        Store(copy, own)
    opened = Store(copy, own, verify=False)
    with pytest.raises(ValueError, match=match):
        opened.read(0, opened.tokens)


def test_verification_may_be_left_out(copy):
    flip(copy / "shard-00001.bin")
    opened = Store(copy, verify=False)
    with pytest.raises(ValueError, match="was altered"):
        opened.verify()


def test_another_tokenizer_is_refused(copy):
    with pytest.raises(ValueError, match="not with this run's .*gpt2.*\n.*data.tokenizer="):
        text.open_stream(settings(copy), tokenizer.gpt2())
    own = tokenizer.Tokenizer.load(copy / "tokenizer")
    with pytest.raises(ValueError, match="ends its documents with token"):
        Store(copy, tokenizer.Tokenizer.wrap(own.raw, own.kind))
    with pytest.raises(ValueError, match="cannot be trained on the token store"):
        text.load_tokenizer(settings(copy, tokenizer="bpe:300"))


def test_a_file_truncated_while_it_is_read_is_an_error_not_a_crash(copy):
    """A memory map would end this process with SIGBUS."""
    code = (
        "import os, sys; from train.data.store import Store; s = Store(sys.argv[1])\n"
        "os.truncate(sys.argv[1] + '/shard-00000.bin', 8)\n"
        "try: s.read(0, 50).sum()\n"
        "except ValueError as error: print(error)\n"
        "s.shards[0]._state = lambda: s.shards[0].state  # truncated after the look at its size\n"
        "try: s.read(0, 50).sum()\n"
        "except ValueError as error: print(error)"
    )
    run = [sys.executable, "-c", code, str(copy)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shard-00000.bin has 8 bytes, its sidecar says") == 2


def test_a_file_altered_while_it_is_read_is_an_error_and_a_touched_one_is_not(copy):
    opened = Store(copy)
    before = opened.read(0, 50)
    os.utime(copy / "shard-00000.bin", ns=(1, 1))
    np.testing.assert_array_equal(opened.read(0, 50), before)
    flip(copy / "shard-00000.bin")
    os.utime(copy / "shard-00000.bin", ns=(2, 2))
    with pytest.raises(ValueError, match="was altered while it was being read"):
        opened.read(0, 5)


def test_a_disk_that_fails_is_said_with_the_file(copy, monkeypatch):
    opened = Store(copy)

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(ValueError, match="shard-00000.bin cannot be read: input/output error"):
        opened.read(0, 5)


def test_a_shard_that_may_not_be_read_is_said_with_its_name(copy, monkeypatch):
    real = open

    def refusing(path, *arguments, **options):
        if str(path).endswith("shard-00001.bin"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refusing)
    with pytest.raises(PermissionError) as caught:
        Store(copy)
    assert errors.message(caught.value).endswith("shard-00001.bin': permission denied")
    assert errors.is_users(caught.value)


def test_short_reads_are_read_on(copy, monkeypatch):
    opened, real = Store(copy), os.pread
    whole = opened.read(0, 50)
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 7), at))
    np.testing.assert_array_equal(opened.read(0, 50), whole)
