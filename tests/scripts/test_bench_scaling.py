"""The curves over sizes: what a point is, the table, the picture."""

import pytest

from scripts.bench import scaling, sizes


def points(values):
    return [
        {"value": n, "cpu": 0.1 + 0.05 * n, "wall": 0.1 * n, "peak": 10**9, "temporaries": 10**8,
         "gradients": 10**7, "logits": 4 * 10**6 * n, "compile_seconds": 1.0}
        for n in values
    ]  # fmt: skip


def test_a_point_changes_one_size():
    assert scaling.shape("batch", 16) == {**scaling.BASE, "batch": 16}
    made = scaling.shape("vocab", 65536)
    assert (made["vocab"], made["layers"], made["batch"]) == (65536, 2, 8)
    for axis, values in scaling.AXES.items():
        for value in values:
            made = scaling.shape(axis, value)
            del made["batch"]
            length = made.pop("length")
            assert sizes.options("gpt2", "124m", context=length, **made)


def test_the_table_has_the_cost_of_a_unit_more():
    text = scaling.table({"axes": {"batch": points((2, 4, 8))}})
    assert text.splitlines()[2].startswith("| 2 | 0.200 | 0.200 |  | 100 | 90 | 8 | 1000 |")
    assert "| 4 | 0.300 | 0.400 | 50 |" in text


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    axes = {"batch": points((2, 4, 8)), "vocab": points((100, 200))}
    path = scaling.draw({"axes": axes}, tmp_path / "a" / "b.png")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 10_000
