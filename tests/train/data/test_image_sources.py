"""Sources of pictures: what is damaged is named, labels are checked, a bad row is one bad picture."""

import io

import numpy as np
import pytest
from PIL import Image

from train.data import image_sources, records


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
