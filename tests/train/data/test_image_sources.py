"""Sources of pictures: what is damaged is named, labels are checked, a bad row is one bad picture."""

import io

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from train.data import image_files, image_sources, images, records
from train.data.decode import BadImage


def encoded(value=0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("left", [0.0, 0.4, 0.99])
def test_an_array_record_that_is_cut_is_named(tmp_path, left):
    pytest.importorskip("array_record")
    for number in range(2):
        rows = [{"image": encoded(n), "label": [n % 2]} for n in range(40)]
        records.write(tmp_path / f"x-train-{number}.array_record", rows)
    assert len(image_sources.read(str(tmp_path))["train"]) == 80
    path = tmp_path / "x-train-1.array_record"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(left * len(raw))])
    with pytest.raises(ValueError, match=r"x-train-1\.array_record is not a readable"):
        image_sources.read(str(tmp_path))


def test_a_damaged_record_is_named_with_its_file(tmp_path):
    pytest.importorskip("array_record")
    path = tmp_path / "x.array_record"
    rng = np.random.default_rng(0)
    rows = [{"image": rng.bytes(9000), "label": [n % 2]} for n in range(40)]
    records.write(path, rows)
    raw = bytearray(path.read_bytes())
    raw[100_000:100_200] = b"\x33" * 200
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x\.array_record, record \d+ is not read"):
        image_sources.read(str(path))


def damaged(path, start, size):
    raw = bytearray(path.read_bytes())
    raw[start : start + size] = bytes(b ^ 0x5A for b in raw[start : start + size])
    path.write_bytes(raw)
    return path


def test_a_damaged_npz_file_is_named(tmp_path):
    path = tmp_path / "a.npz"
    noise = np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(path, x=noise, y=np.arange(80) % 3)
        whole = path.read_bytes()
        for start in (0, 30, 200, 2000, len(whole) - 40):
            path.write_bytes(whole)
            with pytest.raises(ValueError, match=r"a\.npz is (damaged|not a readable)"):
                image_sources.read(str(damaged(path, start, 60)))
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"a\.npz is damaged"):
            image_sources.read(str(path))
    np.save(tmp_path / "b.npy", noise)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(ValueError, match=r"b\.npz .* one array without a name"):
        image_sources.read(str(tmp_path / "b.npz"))


def parquet(path, rows, size=None):
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"image": rows, "label": [n % 2 for n in range(len(rows))]})
    parquet.write_table(table, path, row_group_size=size, compression="zstd")
    return image_sources.read(str(path))["train"]


def settings(**data):
    return ConfigDict(
        dict(
            seed=0, batch=4, data=dict(crop_share=1.0, **data), eval=dict(batches=0), augment={},
            model=dict(image_size=8, channels=3),
        )
    )  # fmt: skip


def skipped(part):
    """How many pictures are left out with bad=skip; without it the first one is an error."""
    made = settings(bad="skip")
    batch = images.open_stream(made, part).batch(0)
    held = images.held(made, part)
    rows = sum(batch["rows"].sum() for batch in held)
    assert batch["skipped"].sum() == held.count == len(part) - rows
    return held.count


def test_rows_without_bytes_are_bad_pictures(tmp_path):
    good = {"bytes": encoded(), "path": None}
    rows = [good, {"bytes": None, "path": "x.png"}, None, good]
    part = parquet(tmp_path / "a.parquet", rows)
    assert skipped(part) == 2
    with pytest.raises(BadImage, match=r"picture [12] has no bytes .*\n.*bad=skip"):
        images.open_stream(settings(), part).batch(0)


def test_a_damaged_group_of_rows_is_bad_pictures(tmp_path):
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    rows = [encoded(n) + rng.bytes(4000) for n in range(4)]
    parquet(path, rows, size=2)
    damaged(path, 4, 4000)
    part = image_sources.read(str(path))["train"]
    assert skipped(part) == 2
    with pytest.raises(BadImage, match=r"a\.parquet, row group 0 is not read"):
        images.open_stream(settings(), part).batch(0)


def test_records_without_a_picture_are_bad_pictures(tmp_path):
    pytest.importorskip("array_record")
    path = tmp_path / "a.array_record"
    rows = [{"image": encoded()}, {}, {"image": []}, {"image": encoded()}]
    records.write(path, ({**row, "label": [n % 2]} for n, row in enumerate(rows)))
    assert skipped(image_sources.read(str(path))["train"]) == 2


def test_rows_of_the_hub_that_cannot_be_read_are_bad_pictures():
    rows = [{"img": {"bytes": encoded(), "path": ""}}, {"img": None}, {"img": {"bytes": None}}]
    raw = image_files.Hub(rows, "img", "hub:a/b")
    place = image_sources.Named("hub:a/b")
    part = image_sources.Images("hub:a/b", raw, place, np.zeros(4, np.int32), ("0",))
    assert skipped(part) == 3  # the last one is beyond the rows
    with pytest.raises(BadImage, match="hub:a/b, picture 3 is not read: IndexError"):
        raw(3)


def test_a_number_without_an_end_is_refused_at_once():
    with pytest.raises(ValueError, match="not a tf.train.Example"):
        records.example(b"\x0a" + b"\xff" * 2_000_000)


def test_a_record_without_a_label_is_named_with_its_own_file(tmp_path):
    pytest.importorskip("array_record")
    for number in range(2):
        row = {"image": encoded(), **({"label": [0]} if number == 0 else {})}
        records.write(tmp_path / f"x-{number}.array_record", [row])
    with pytest.raises(
        ValueError, match=r"x-1\.array_record, record 0 has columns image; expected"
    ):
        image_sources.read(str(tmp_path))
