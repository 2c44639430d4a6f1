"""Pictures: every source, the policy for bad ones, the stream as a function of seed and step."""

import gzip
import io
import pickle
import sys
import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from train.data import decode, image_sources, images, prepare, records, workers

PICTURES = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), np.uint8)
LABELS = np.arange(12) % 3


def encoded(number, path, kind="PNG"):
    Image.fromarray(PICTURES[number]).save(path, kind)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        part = "train" if number < 9 else "val"
        place = root / "classes" / part / "abc"[LABELS[number]]
        place.mkdir(parents=True, exist_ok=True)
        encoded(number, place / f"{number:02}.png")
    return root


def config(**changes):
    made = ConfigDict(
        dict(
            seed=3, batch=4,
            data=dict(source="", crop_share=1.0),
            model=dict(image_size=8, channels=3), eval=dict(batches=0), augment={},
        )
    )  # fmt: skip
    made.update_from_flattened_dict(changes)
    return made


def every(images):
    return [
        np.asarray(decode.decode(images.raw(i), 3, images.place(i))) for i in range(len(images))
    ]


def test_folders_by_class(folder):
    found = image_sources.read(str(folder / "classes"))
    assert {name: len(part) for name, part in found.items()} == {"train": 9, "valid": 3}
    assert found["train"].labels == ("a", "b", "c") == found["valid"].labels
    assert found["train"].targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(every(found["valid"])[0], PICTURES[9])


def parquet(folder):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"bytes": encoded(n, folder / "x.png"), "path": None} for n in range(12)]
    path = folder / "a.parquet"
    parquet.write_table(pa.table({"image": rows, "label": LABELS}), path, row_group_size=5)
    return path


def array_record(folder):
    pytest.importorskip("array_record")
    path = folder / "a.array_record"
    rows = ({"image": encoded(n, folder / "x.png"), "label": [int(LABELS[n])]} for n in range(12))
    assert records.write(path, rows) == 12
    return path


def npz(folder):
    np.savez(folder / "a.npz", images=PICTURES, labels=LABELS)
    return folder / "a.npz"


def idx(folder):
    place = folder / "idx"
    place.mkdir()
    for name, array in (
        ("images-idx3", PICTURES[..., 0]),
        ("labels-idx1", LABELS.astype(np.uint8)),
    ):
        head = b"\0\0\x08" + bytes([array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
        for part in ("train", "t10k"):
            (place / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return place


@pytest.mark.parametrize("make", [parquet, array_record, npz, idx])
def test_a_file_gives_its_pictures_and_can_be_sent(make, tmp_path):
    found = pickle.loads(pickle.dumps(image_sources.read(str(make(tmp_path)))["train"]))
    assert len(found) == 12 and found.targets.tolist() == LABELS.tolist()
    wanted = PICTURES if make is not idx else np.repeat(PICTURES[..., :1], 3, -1)
    np.testing.assert_array_equal(np.stack(every(found.take([7, 2]))), wanted[[7, 2]])


def test_the_hub(monkeypatch, tmp_path):
    class Rows(list):
        column_names = ["img", "label"]
        features = {"label": types.SimpleNamespace(names=["x", "y", "z"])}

        def __getitem__(self, key):
            return (
                [row[key] for row in iter(self)]
                if isinstance(key, str)
                else list.__getitem__(self, key)
            )

        def cast_column(self, name, kind):
            assert (name, kind) == ("img", "undecoded")
            return self

    rows = Rows({"img": {"bytes": encoded(n, tmp_path / "x.png"), "path": ""}, "label": int(LABELS[n])}
                for n in range(12))  # fmt: skip
    fake = types.ModuleType("datasets")
    fake.load_dataset = lambda name, config: {"train": rows, "test": rows, "extra": rows}
    fake.Image = lambda decode: "undecoded"
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = image_sources.read("hub:someone/something")
    assert found["valid"].labels == ("x", "y", "z")
    np.testing.assert_array_equal(every(found["train"])[5], PICTURES[5])


def test_the_embedded_digits_and_their_held_out_tenth():
    parts = images.parts(config(**{"data.source": "mnist", "model.channels": 1}))
    assert {name: len(part) for name, part in parts.items()} == {"train": 9000, "valid": 1000}
    whole = {row.tobytes() for part in parts.values() for row in part.pixels}
    assert len(whole) == 10_000, "no digit stands in both"
    other = images.parts(config(seed=9, **{"data.source": "mnist", "model.channels": 1}))
    assert (other["valid"].pixels == parts["valid"].pixels).all(), "by no seed"


def test_many_labels_are_rows_of_zeros_and_ones(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    names = [["cat", "dog"], [], ["emu"], ["dog"]] * 3
    rows = [encoded(n, tmp_path / "x.png") for n in range(12)]
    parquet.write_table(pa.table({"image": rows, "labels": names}), tmp_path / "many.parquet")
    source = str(tmp_path / "many.parquet")
    made = config(
        batch=2, augment=dict(mixup=1.0), **{"data.source": source, "data.task": "multilabel"}
    )
    parts = images.parts(made)
    assert parts["train"].labels == ("cat", "dog", "emu")
    whole = image_sources.read(source, many=True)["train"].targets
    np.testing.assert_array_equal(whole[:4], [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]])
    batch = images.open_stream(made, parts["train"]).batch(0)
    assert batch["targets"].shape == batch["others"].shape == (2, 3)
    with pytest.raises(ValueError, match="task=multilabel"):
        image_sources.read(source)


def test_a_share_of_the_labels_is_of_every_class():
    whole = image_sources.read("mnist")["train"]
    small, large = images.subset(whole, 0.01, 1), images.subset(whole, 0.1, 1)
    assert len(small) == pytest.approx(100, abs=5) and set(small.targets) == set(range(10))
    held = {row.tobytes() for row in large.pixels}
    assert all(row.tobytes() in held for row in small.pixels)
    assert (images.subset(whole, 0.01, 2).pixels[:9] != small.pixels[:9]).any()
    with pytest.raises(ValueError, match="labelled is 1.5"):
        images.subset(whole, 1.5, 0)


def memory(count=24, side=8):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    return image_sources.in_memory("memory", pixels, np.arange(count) % 3)


SETTINGS = {
    "array": dict(crop="shift", pad=2, flip=0.5, erase=0.5, mixup=0.8, cutmix=1.0),
    "pillow": dict(crop="area", flip=0.5, layers=2, jitter=0.4, erase=0.5, cutmix=1.0, repeats=3),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_is_a_function_of_seed_and_step_sliced_by_process(name):
    made = config(augment=SETTINGS[name])
    stream = images.open_stream(made, memory())
    whole = [stream.batch(step) for step in range(4)]
    again = images.open_stream(made, memory())
    halves = [images.open_stream(made, memory(), i, 2) for i in range(2)]
    for step in (3, 0, 2):
        for key, value in again.batch(step).items():
            np.testing.assert_array_equal(value, whole[step][key])
            parts = np.concatenate([half.batch(step)[key] for half in halves])
            np.testing.assert_array_equal(parts, value)
    assert (whole[0]["images"] != whole[1]["images"]).any()
    made.seed = 4
    assert (images.open_stream(made, memory()).batch(0)["images"] != whole[0]["images"]).any()


def test_an_epoch_holds_every_picture_once_or_as_often_as_it_repeats():
    once = images.open_stream(config(), memory())
    seen = np.concatenate([once.numbers(step) for step in range(6)])
    assert sorted(seen) == list(range(24))
    thrice = images.open_stream(config(augment=dict(repeats=3)), memory())
    seen = np.concatenate([thrice.numbers(step) for step in range(18)])
    assert np.bincount(seen).tolist() == [3] * 24
    assert (seen[::2] != seen[1::2]).all(), "neighbours differ"


def test_mixed_batches_name_both_targets():
    stream = images.open_stream(config(augment=dict(mixup=0.8)), memory())
    batch = stream.batch(5)
    targets = memory().targets[stream.numbers(5)]
    np.testing.assert_array_equal(batch["targets"], targets)
    np.testing.assert_array_equal(batch["others"], targets[[1, 0, 3, 2]])
    plain = images.open_stream(config(), memory()).batch(5)["images"]
    share = batch["share"][0]
    mixed = share * plain + (1 - share) * plain[[1, 0, 3, 2]]
    np.testing.assert_allclose(batch["images"], mixed, atol=1e-5)


def test_normalised_as_torchvision():
    shape = prepare.Shape(8)
    pixels = memory().pixels[:2]
    wanted = (pixels / 255 - np.array(prepare.MEAN)) / np.array(prepare.DEVIATION)
    np.testing.assert_allclose(shape.normal(pixels), wanted, atol=1e-5)


def test_workers_change_nothing():
    pytest.importorskip("grain")
    stream = images.open_stream(config(augment=SETTINGS["pillow"]), memory())
    ahead = workers.ahead(stream, 2)
    assert workers.ahead(stream, 0) is stream and ahead.fingerprint == stream.fingerprint
    try:
        for step in (0, 1, 2, 7, 8):
            made = ahead.batch(step)
            for key, value in stream.batch(step).items():
                np.testing.assert_array_equal(made[key], value)
    finally:
        ahead.close()


@pytest.fixture
def bad(tmp_path):
    """Nine pictures by class, of which two are bad."""
    for number in range(9):
        place = tmp_path / "abc"[LABELS[number]]
        place.mkdir(exist_ok=True)
        raw = encoded(number, place / f"{number}.png")
        if number == 4:
            (place / f"{number}.png").write_bytes(raw[: len(raw) // 2])
    Image.new("RGB", (300, 300)).save(tmp_path / "a" / "0.png")
    return tmp_path


def test_bad_pictures_are_an_error_that_names_them(bad):
    made = config(**{"data.source": str(bad), "data.max_pixels": 1000, "data.valid_share": 0.0})
    stream = images.open_stream(made, images.parts(made)["train"])
    with pytest.raises(decode.BadImage, match=r"(0|4)\.png (has 300 x 300|is damaged)") as error:
        for step in range(3):
            stream.batch(step)
    assert "bad=skip" in str(error.value) and len(str(error.value).splitlines()) == 2


def test_bad_pictures_are_skipped_and_counted(bad):
    made = config(batch=9, **{"data.source": str(bad), "data.max_pixels": 1000, "data.bad": "skip",
                              "data.valid_share": 0.0})  # fmt: skip
    part = images.parts(made)["train"]
    batch = images.open_stream(made, part).batch(0)
    assert batch["skipped"].sum() == 2 and np.isfinite(batch["images"]).all()
    held = images.held(made, part)
    rows = next(iter(held))["rows"]
    assert rows.sum() == 7 and held.count == 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_that_are_read(mode, tmp_path):
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    Image.fromarray(PICTURES[0]).convert(mode).save(tmp_path / "x", kind)
    for channels in (1, 3):
        made = decode.decode((tmp_path / "x").read_bytes(), channels, "x")
        assert made.mode == {1: "L", 3: "RGB"}[channels] and made.size == (10, 8)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_modes_that_are_refused(mode, tmp_path):
    Image.new(mode, (4, 4)).save(tmp_path / "x", "TIFF")
    with pytest.raises(decode.BadImage, match=f"x is of mode '{mode}'"):
        decode.decode((tmp_path / "x").read_bytes(), 3, "x")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["AVIF", "DDS", "TIFF", "PNG", "JPEG", "WEBP", "GIF"])
def test_whatever_is_damaged_is_a_bad_picture(kind):
    file, rng = io.BytesIO(), np.random.default_rng(0)
    try:
        Image.fromarray(PICTURES[0]).save(file, kind)
    except (OSError, KeyError):
        pytest.skip(f"Pillow is without {kind}")
    whole, found = np.frombuffer(file.getvalue(), np.uint8), set()
    for _ in range(120):
        raw = whole.copy()
        places = rng.integers(0, min(len(raw), 200), 4)
        raw[places] = rng.choice([0, 127, 255], 4)
        try:
            found.add(decode.decode(raw.tobytes(), 3, "x").mode)
        except decode.BadImage:
            found.add("bad")
    assert "bad" in found and found <= {"bad", "RGB"}


def test_postscript_is_not_run():
    file = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(file, "EPS")
    with pytest.raises(decode.BadImage, match="x is PostScript"):
        decode.decode(file.getvalue(), 3, "x")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"no picture", "not a picture"),
        (b"", "not a picture"),
        (np.zeros((4, 4, 2), np.uint8), r"uint8 \[4, 4, 2\]"),
        (np.zeros((4, 4), np.float32), "float32"),
    ],
)
def test_what_is_no_picture(raw, words):
    with pytest.raises(decode.BadImage, match=words):
        decode.decode(raw, 3, "x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.source": "nowhere"}, "no pictures at 'nowhere'"),
        ({"data.source": "mnist", "data.task": "regress"}, "config.data.task is 'regress'"),
        ({"data.source": "mnist", "data.valid_share": 2.0}, "valid_share is 2.0"),
        ({"data.source": "mnist", "data.bad": "ignore"}, "config.data.bad is 'ignore'"),
        ({"data.source": "mnist", "augment": dict(crop="middle")}, "augment.crop is 'middle'"),
        ({"data.source": "mnist", "augment": dict(flips=1.0)}, "no field 'flips'.*flip"),
        ({"data.source": "mnist", "augment": dict(erase=2.0)}, "augment.erase is 2.0"),
        ({"data.source": "mnist", "data.mean": (0.5,)}, "data.mean has 1 numbers"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    made = config(**changes)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        images.open_stream(made, images.parts(made)["train"])


# tf.train.Example of a, f and n below, as the protobuf library serialises it.
EXAMPLE = (
    "0a380a0b0a016112060a040a0278790a110a0166120c120a0a080000c03f000000c00a160a016e12"
    "111a0f0a0d03ffffffffffffffffff01ac02"
)


def test_records_are_those_of_tensorflow():
    known = {"a": [b"xy"], "f": [1.5, -2.0], "n": [3, -1, 300]}
    assert records.example(bytes.fromhex(EXAMPLE)) == known
    del known["f"]
    assert records.example(records.serialise({"a": b"xy", "n": [3, -1, 300]})) == known
    with pytest.raises(ValueError, match="not a tf.train.Example"):
        records.example(b"\x0a\xff\x01zz")
