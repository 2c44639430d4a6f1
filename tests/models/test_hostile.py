"""Files from anybody: refused in a sentence, in little time and memory, whatever they say."""

import json
import resource
import struct
import time

import numpy as np
import pytest

from models import families, interop
from models.interop import gguf, untrusted
from models.options import Options
from tests.models import test_gguf
from tests.models.test_interop import entry, header, parameters

SECONDS, KILOBYTES = 2.0, 300 << 10
SMALL = dict(vocab=40, context=16, layers=2, width=64, heads=4, ff=96)


@pytest.fixture
def folder(tmp_path):
    """A good reference folder."""
    o = Options.of(families.row("llama", **SMALL, kv_heads=2))
    interop.export(tmp_path / "good", o, parameters(o))
    interop.load(tmp_path / "good")
    return tmp_path / "good"


def refused(path, words, load=interop.load) -> str:
    """The message with which loading fails: these words, in one to three lines, quickly and in bounds."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        load(path)
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size < KILOBYTES
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 3 and len(text) < 1000, text
    return text


def nested(depth, inside="1"):
    return "[" * depth + inside + "]" * depth


def empty_tensors(count, **more):
    return b"{" + b",".join(
        b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(count)
    ) + b"}"  # fmt: skip


HEADERS = {
    "eight exabytes": ((2**63).to_bytes(8, "little") + b"{}", "states a header"),
    "101 MB": ((101 << 20).to_bytes(8, "little") + b"{}", "states a header"),
    "300,000 tensors": (header(empty_tensors(300_000)), "states a header|more than 20,000"),
    "100,000 tensors": (header(empty_tensors(100_000)), "more than 20,000 tensors"),
    "100,000 tensors, spelled oddly": (
        header(empty_tensors(100_000).replace(b'"dtype"', b'"\\u0064type"')),
        "more than 200,000 lists",
    ),
    "three million lists": (
        header(b'{"a": [' + b"[]," * 2_600_000 + b"[]]}"), "more than 200,000 lists"
    ),
    "a key twice among many": (
        header(b"{" + b"".join(b'"%d":1,' % n for n in range(500_000)) + b'"499999":1}'), "twice"
    ),
    "deep": (header(('{"a":' + nested(100_000) + "}").encode()), "nested"),
    "as deep as Python reads": (header(('{"a":' + nested(700) + "}").encode()), "nested"),
    "overlapping": (header({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "overlaps"),
    "overflow": (header({"a": entry(0, 8, [2**61, 2**61, 2**61])}, bytes(8)), "'a'"),
    "overflow to the right size": (header({"a": entry(0, 8, [2**63, 2])}, bytes(8)), "'a'"),
    "more axes than are": (header({"a": entry(0, 4, [1] * 5000)}, bytes(4)), "'a'"),
    "a path": (header({"../../evil": entry(0, 4)}, bytes(4)), "lacks|evil"),
    "a name of a megabyte": (header({"x" * 2**20: entry(0, 4, [7])}, bytes(4)), "cannot lie"),
    "not UTF-8": (header(b'{"\xff\xfe": 1}'), "not valid JSON"),
    "not a number": (header(b'{"a": {"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}'), "'a'"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_safetensors(folder, name):
    content, words = HEADERS[name]
    (folder / "model.safetensors").write_bytes(content)
    assert refused(folder, words)


CONFIGS = {
    "huge": (b'{"model_type": "llama", "x": "' + b"x" * (5 << 20) + b'"}', "at most"),
    "deep": (b'{"model_type":' + nested(100_000).encode() + b"}", "nested"),
    "as deep as Python reads": (b'{"model_type":' + nested(700).encode() + b"}", "nested"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested"),
    "a list": (b"[1]", "expected an object"),
    "empty": (b"", "not valid JSON"),
    "a long number": (b'{"hidden_size": ' + b"9" * 100_000 + b"}", "not valid JSON"),
    "a key twice": (b'{"a": 1, "a": 2}', "twice"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config(folder, name):
    content, words = CONFIGS[name]
    (folder / "config.json").write_bytes(content)
    assert refused(folder, words)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 10**6, "num_attention_heads": 8, "head_dim": 125_000},
        {"vocab_size": 10**12},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 19_999},
        {"intermediate_size": 10**12},
        {"hidden_size": 10**400},
        {"num_hidden_layers": -1},
        {"num_attention_heads": 0},
        {"max_position_embeddings": 2**70, "rope_theta": 1e308},
        {"rope_theta": 0},
        {"num_hidden_layers": 1e9},
        {"head_dim": 2**62},
        {"model_type": "x" * 100_000},
        {"model_type": [[["llama"]]]},
        {"id2label": "x", "architectures": [["LlamaForCausalLM"]], "num_hidden_layers": None},
        {"rope_scaling": {"rope_type": "x" * 100_000}},
    ],
)
def test_a_config_that_asks_for_the_impossible(folder, change):
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(given | change))
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        interop.load(folder)
    except ValueError as error:
        assert len(str(error).splitlines()) <= 3 and len(str(error)) < 1000
    else:
        assert set(change) <= {"max_position_embeddings", "rope_theta", "num_hidden_layers"} | set(
            ("id2label", "architectures")
        ), "it was taken"
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size < KILOBYTES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has more than|more than the"),
        (("{" + '"a":{' * 50_000 + "}" * 50_001).encode(), "tokenizer.json"),
        (b'{"model": {"vocab": {"a": 9999999999999}}}', "tokenizer.json"),
        (b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "tokenizer.json"),
        (b"{}", "tokenizer.json"),
    ],
)
def test_tokenizer(folder, content, words):
    file = folder / "tokenizer.json"
    if content is None:
        with open(file, "wb") as sparse:
            sparse.truncate(1 << 40)
    else:
        file.write_bytes(content)
    assert refused(folder, words)


def test_an_index_names_files_beside_it_only(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    for name in (
        "../good/a.safetensors",
        "/etc/passwd",
        "a/../../b.safetensors",
        "a\x00.safetensors",
    ):
        index.write_text(json.dumps({"weight_map": {"x": name}}))
        assert refused(folder, "beside it|not in")
    index.write_text(json.dumps({"weight_map": {f"t{i}": f"{i}.safetensors" for i in range(2000)}}))
    assert refused(folder, "at most 1,000")


def test_names_that_are_paths_are_not_exported(tmp_path):
    o = Options.of(families.row("llama", **SMALL))
    params = parameters(o)
    params["../../evil"] = {"../kernel": np.zeros(3, np.float32)}
    assert refused(tmp_path / "out", "evil", lambda path: interop.export(path, o, params))
    assert not list(tmp_path.rglob("*")), "nothing was written"


@pytest.fixture
def file(tmp_path):
    fields, arrays, _ = test_gguf.model(Options.of(families.row("llama", **test_gguf.SMALL)))
    test_gguf.write(tmp_path / "m.gguf", fields, arrays)
    return tmp_path / "m.gguf"


def start(tensors, fields):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields)


def text(value: bytes):
    return struct.pack("<Q", len(value)) + value


STRINGS, BYTES = 8, 0
GGUFS = {
    "counts": (start(2**60, 2**60), "at most"),
    "fields": (start(0, 4096), "damaged"),
    "a key without end": (start(0, 1) + struct.pack("<Q", 2**62), "damaged"),
    "an array without end": (start(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 6, 2**62), "damaged"),
    "two million strings, again and again": (
        start(0, 8) + b"".join(
            text(b"k%d" % n) + struct.pack("<IIQ", 9, STRINGS, 1_900_000) + bytes(8 * 1_900_000)
            for n in range(8)
        ),
        "damaged",
    ),
    "arrays of bytes that grow eightfold": (
        start(0, 60) + b"".join(
            text(b"k%d" % n) + struct.pack("<IIQ", 9, BYTES, 1_900_000) + bytes(1_900_000)
            for n in range(60)
        ),
        "damaged",
    ),
    "arrays in arrays": (start(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 5), "damaged"),
    "an unknown type": (start(0, 1) + text(b"k") + struct.pack("<I", 77) + bytes(64), "damaged"),
    "sizes that overflow": (
        start(1, 0) + text(b"t") + struct.pack("<I4QIQ", 4, *[2**63] * 4, 0, 0) + bytes(64),
        "beyond the end",
    ),
    "an offset out of the file": (
        start(1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 2**63) + bytes(64),
        "beyond the end",
    ),
    "a thousand axes": (start(1, 0) + text(b"t") + struct.pack("<I", 1000) + bytes(99), "axes"),
    "an unknown format": (
        start(1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 4, 99, 0) + bytes(64), "not supported"
    ),
    "wrong magic": (b"GGML" + bytes(100), "not a GGUF file"),
    "another version": (b"GGUF" + struct.pack("<I", 9) + bytes(100), "not a GGUF file"),
    "no model": (start(0, 0) + bytes(64), "general.architecture"),
}  # fmt: skip


@pytest.mark.parametrize("name", GGUFS)
def test_gguf_files(tmp_path, name):
    content, words = GGUFS[name]
    (tmp_path / "m.gguf").write_bytes(content)
    assert refused(tmp_path / "m.gguf", words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 19_999),
        ("llama.block_count", 2**31),
        ("llama.embedding_length", 2**31),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", 2**31),
        ("llama.feed_forward_length", 2**31),
        ("llama.rope.dimension_count", 3),
    ],
)
def test_gguf_fields_that_ask_for_the_impossible(tmp_path, key, value):
    fields, arrays, _ = test_gguf.model(Options.of(families.row("llama", **test_gguf.SMALL)))
    path = tmp_path / "m.gguf"
    test_gguf.write(path, {**fields, key: value}, arrays)
    assert refused(path, "gguf|model")


def test_json_within_bounds_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a":' + nested(60) + "}")
    assert list(untrusted.read_json(path)) == ["a"]
    path.write_text('{"a":' + nested(70) + "}")
    assert refused(path, "nested", untrusted.read_json)
    assert gguf.ITEMS >= 1_500_000, "a vocabulary of 256,000 with its merges, scores and types"
