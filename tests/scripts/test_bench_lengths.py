"""Longformer against dense attention: equal models, the table, the picture, a toy run."""

import json

import pytest

from models.build import count
from scripts.bench import __main__ as bench
from scripts.bench import lengths


def test_the_two_differ_by_the_attention():
    dense, near = (lengths.options(family, 1024, 256) for family in lengths.FAMILIES)
    assert near.windows == (256,) and dense.windows == () and dense.head == near.head == "masked"
    same = ("layers", "width", "heads", "vocab", "context", "ff")
    assert all(getattr(dense, name) == getattr(near, name) for name in same)
    extra = (
        3 * 2 * (256 * 256 + 256)
    )  # projections for global tokens, which Longformer has in store
    assert abs(count(near) - extra - count(dense)) < 1000, "beside segments and positions' offset"


def test_the_table_has_what_windows_save():
    point = lambda cpu: {
        "value": 4096,
        "cpu": cpu,
        "wall": cpu / 2,
        "peak": 1e9,
        "temporaries": 5e8,
    }
    found = {"bert": [point(3.0)], "longformer": [point(1.5)]}
    text = lengths.table({"window": 512, "families": found})
    assert "| 4,096 | 3.000 | 1.500 | 2.00 |" in text and "windows of 512, CPU-s" in text


def test_a_toy_run_is_drawn_and_kept(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setitem(lengths.SHAPE, "width", 32)
    out, figure = tmp_path / "result.json", tmp_path / "lengths.png"
    words = f"lengths --lengths 32 --window 8 --rounds 1 --figure {figure} --out {out}"
    assert bench.main(words.split()) == 0
    kept = json.loads(out.read_text())
    assert all(p[0]["peak"] > 2**20 and p[0]["cpu"] > 0 for p in kept["families"].values())
    assert figure.stat().st_size > 1000
