"""Legacy torch files: what tensors need is read, whatever else there is is named, nothing runs."""

import os
import struct
import time

import numpy as np
import pytest

from models import interop
from models.interop import legacy_torch, pickles, pth

ORDERED = b"ccollections\nOrderedDict\n)R"
MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
VERSION = b"\x80\x02M\xe9\x03."


def word(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


SYSTEM = b"\x80\x02}q\x00(" + word("little_endian") + b"\x88" + word("sizes") + b"}u."
EVIL = b"c" + os.system.__module__.encode() + b"\nsystem\n(" + word("touch ran") + b"tR"


def number(n):
    return b"J" + struct.pack("<i", n) if n < 2**31 else b"\x8a\x08" + struct.pack("<q", n)


def numbers(items):
    return b"(" + b"".join(map(number, items)) + b"t"


def storage(key, count, kind="FloatStorage", view=b"N"):
    made = f"ctorch\n{kind}\n".encode()
    return b"(" + word("storage") + made + word(key) + word("cpu") + number(count) + view + b"tQ"


def tensor(key, count, shape, strides, offset=0, **more):
    given = storage(key, count, **more) + number(offset) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + given + b"\x89" + ORDERED + b"tR"


def mapping(**items):
    return ORDERED + b"(" + b"".join(word(name) + item for name, item in items.items()) + b"u"


def legacy(program, data=(), keys=None, head=(MAGIC, VERSION, SYSTEM), tail=b""):
    """The bytes of a file: `program` between its frame, `data` {key: array} as its storages."""
    data = dict(data)
    keys = b"".join(map(word, data)) if keys is None else keys
    out = b"".join(head) + b"\x80\x02" + program + b".\x80\x02](" + keys + b"e."
    for array in data.values():
        out += struct.pack("<q", array.size) + array.tobytes()
    return out + tail


@pytest.fixture
def read(tmp_path):
    def run(data: bytes):
        (tmp_path / "net.pth").write_bytes(data)
        return legacy_torch.read(tmp_path / "net.pth")

    return run


A = np.arange(12, dtype=np.float32)
GOOD = mapping(w=tensor("1", 12, (3, 4), (4, 1)))


def test_tensors_in_any_order_of_axes_and_of_every_type(read):
    half, long = np.array([1, 2], np.float16), np.array(7, np.int64)
    program = mapping(
        plain=tensor("1", 12, (2, 4), (4, 1), offset=4),
        turned=tensor("2", 12, (4, 3), (1, 4)),
        inside=mapping(half=tensor("3", 2, (2, 1), (1, 9), kind="HalfStorage")),
        count=tensor("4", 1, (), (), kind="LongStorage"),
    )  # fmt: skip
    found = read(legacy(program, {"2": A, "1": A + 1, "4": long.reshape(1), "3": half}))
    np.testing.assert_array_equal(found["plain"], (A + 1)[4:].reshape(2, 4))
    np.testing.assert_array_equal(found["turned"], A.reshape(3, 4).T)
    np.testing.assert_array_equal(found["inside"]["half"], half[:, None])
    assert found["count"] == 7 and found["count"].dtype == np.int64


def test_attributes_of_dictionaries_are_left_out(read):
    found = read(legacy(GOOD + b"}" + word("_metadata") + ORDERED + b"sb", {"1": A}))
    assert set(found) == {"w"}


def test_a_file_that_would_run_a_command_is_refused_and_runs_nothing(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = rf"would call {os.system.__module__}\.system"
    with pytest.raises(ValueError, match=name):
        read(legacy(mapping(w=EVIL)))
    for place in range(3):
        head = [MAGIC, VERSION, SYSTEM]
        head[place] = b"\x80\x02" + EVIL + b"."
        with pytest.raises(ValueError, match=name):
            read(legacy(GOOD, {"1": A}, head=head))
    with pytest.raises(ValueError, match=name):
        read(legacy(GOOD, {"1": A}, keys=EVIL))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data,words",
    [
        (b"", "ends before"),
        (b"PK\x03\x04" + bytes(40), "zip"),
        (b"\x80\x02K\x05.", "magic"),
        (b"\x80\x04K\x05.", "protocol 4"),
        (legacy(GOOD, {"1": A}, head=[MAGIC, VERSION, b"\x80\x02}."]), "little-endian"),
        (legacy(b"cbuiltins\nev" + b"al\n" + word("1") + b"\x85R"), "builtins.eval"),
        (legacy(b"ctorch\nload\n"), "torch.load"),
        (legacy(b"c" + b"x" * 500), "200 bytes"),
        (legacy(b"i" + b"os\nsystem\n"), "operation b'i'"),
        (legacy(b"\x93"), "operation"),
        (legacy(b"X" + struct.pack("<I", 2**31)), "2,147,483,648"),
        (legacy(b"\x8a\xff"), "ends before"),
        (legacy(ORDERED + b"(" + word("a") + b"u"), "operation b'u'"),
        (legacy(b"u"), "operation b'u'"),
        (legacy(b"h\x05"), "operation b'h'"),
        (legacy(b"))"), "more or less than one"),
        (legacy(ORDERED + b")R"), "operation b'R'"),
        (legacy(word("x") + b"Q"), "operation b'Q'"),
        (legacy(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), "0 arguments"),
        (legacy(b"]"), "is a list"),
        (legacy(mapping(epoch=number(3))), "'epoch' is a int"),
        (legacy(ORDERED + number(3) + ORDERED + b"s"), "the key 3"),
        (legacy(GOOD, {"1": A[:5]}), "another length"),
        (legacy(GOOD, {"1": A})[:-8], "truncated"),
        (legacy(GOOD, {"1": A}, tail=b"more"), "4 bytes follow"),
        (legacy(GOOD, {"2": A}), "list of storages"),
        (legacy(GOOD, {"1": A}, keys=word("1") + word("1")), "list of storages"),
        (legacy(GOOD, {"1": A}, keys=number(1)), "list of storages"),
        (legacy(mapping(w=tensor("1", 12, (3, 5), (5, 1))), {"1": A}), "beyond its storage"),
        (legacy(mapping(w=tensor("1", 12, (3, 4), (4, 1), 1)), {"1": A}), "beyond its storage"),
        (legacy(mapping(w=tensor("1", 12, (12, 12), (0, 0))), {"1": A}), "beyond its storage"),
        (legacy(mapping(w=tensor("1", 12, (3, 3), (1, 1))), {"1": A}), "gaps or overlaps"),
        (legacy(mapping(w=tensor("1", 12, (6,), (2,))), {"1": A}), "gaps or overlaps"),
        (legacy(mapping(w=tensor("1", 12, (-1,), (1,))), {"1": A}), "impossible"),
        (legacy(mapping(w=tensor("1", 2**61, (2**40, 2**21), (2**21, 1)))), "impossible"),
        (legacy(mapping(w=tensor("1", 2**40, (2**40,), (1,))), {"1": A}), "another length"),
        (legacy(mapping(w=tensor("1", 12, (2,), (1,), view=number(1)))), "described in a way"),
        (
            legacy(mapping(a=tensor("1", 12, (8,), (1,)), b=tensor("1", 12, (8,), (1,), 4)), {"1": A}),
            "'a' and 'b' overlap",
        ),
        (
            legacy(
                mapping(a=tensor("1", 12, (6,), (1,)), b=tensor("1", 6, (6,), (1,), kind="LongStorage")),
                {"1": A},
            ),
            "list of storages",
        ),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named_with_the_file(read, data, words):
    with pytest.raises(ValueError) as error:
        read(data)
    assert words in str(error.value) and "net.pth" in str(error.value)
    assert len(str(error.value)) < 400


def test_dictionaries_that_hold_each_other_do_not_take_forever(read):
    loop = ORDERED + b"q\x00" + word("a") + b"h\x00s"
    with pytest.raises(ValueError, match="entries"):
        read(legacy(loop))
    inner = b"".join(word(str(i)) + b"h\xff" for i in range(100))
    program = mapping()
    for _ in range(15):  # each dictionary holds the one below a hundred times
        program = ORDERED + b"(" + word("0") + program + b"q\xff" + inner + b"u"
    with pytest.raises(ValueError, match="entries"):
        read(legacy(program))


def test_long_programs_are_refused_all_of_them_together(read, monkeypatch):
    monkeypatch.setattr(pickles, "PROGRAM_BYTES", 2000)
    same = (word("a") + b"K\x01s") * 160  # 1,440 bytes
    system = SYSTEM[:-1] + same + b"."
    with pytest.raises(ValueError, match="pickles have more than 2,000 bytes"):
        read(legacy(mapping() + same, head=(MAGIC, VERSION, system)))
    assert read(legacy(mapping(), head=(MAGIC, VERSION, system))) == {}


DOUBLED = b")" + b"q\x00h\x00\x86" * 64  # a tuple of two of the tuple before, 64 times


@pytest.mark.parametrize(
    "program,words",
    [
        (ORDERED + DOUBLED + b"Ns", "a tuple as a key"),
        (ORDERED + b"(" + DOUBLED + b"Nu", "a tuple as a key"),
        (tensor("1", 12, (2,), (1,)).replace(numbers((2,)), b"(" + DOUBLED + b"t"), "impossible"),
        (tensor("1", 12, (2,), (1,)).replace(number(0), DOUBLED, 1), "impossible"),
        (storage("1", 12).replace(number(12), DOUBLED), "impossible"),
        (b"ccollections\nOrderedDict\n" + DOUBLED + b"R", "OrderedDict with 2 arguments"),
        (b"]q\x01h\x01" + DOUBLED + b"a", "more or less than one"),
        (mapping(w=DOUBLED), "'w' is a tuple"),
        (
            tensor("1", 12, (2,), (1,)).replace(numbers((2,)), b"}" + number(2) + DOUBLED + b"s"),
            "described in a way",
        ),
    ],
)
def test_a_tuple_of_itself_many_times_over_is_refused_at_once(read, program, words):
    began = time.monotonic()
    with pytest.raises(ValueError, match=words):
        read(legacy(program, {"1": A}))
    assert time.monotonic() - began < 2


def test_a_head_without_axes_is_none_of_the_nets(tmp_path):
    path = tmp_path / "net.pth"
    parts = {
        "_conv_stem.weight": tensor("1", 12, (3, 4), (4, 1)),
        "_fc.bias": tensor("2", 1, (), ()),
    }
    path.write_bytes(legacy(mapping(**parts), {"1": A, "2": A[:1]}))
    with pytest.raises(ValueError, match="none of EfficientNet's sizes"):
        pth.load(path)


def test_a_net_that_is_not_known_is_named(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(legacy(GOOD, {"1": A}))
    with pytest.raises(ValueError, match="no net that is known"):
        interop.load(path)
    path.write_bytes(
        legacy(mapping(**{"_conv_stem.weight": tensor("1", 12, (3, 4), (4, 1))}), {"1": A})
    )
    with pytest.raises(ValueError, match="none of EfficientNet's sizes: lite0"):
        pth.load(path)
