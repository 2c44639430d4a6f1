"""`bench translate`: what both sides are given, the table; with torch, the peer and a whole run."""

import importlib.util
import json
import math

import numpy as np
import pytest

from scripts.bench import __main__ as bench
from scripts.bench import report, translate, translate_sides

TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="torch is not installed")
MODEL = dict(vocab=40, width=16, heads=2, layers=1, ff=0, mlp_ratio=4.0, context=24, drop_embed=0.0,
             drop_resid=0.0, start=0)  # fmt: skip


def batches(count=3, seed=0):
    """Copying: the target is the source."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        text = rng.integers(2, 40, (4, 6))
        ended = np.concatenate([text, np.ones((4, 1))], 1).astype(np.int32)
        yield {
            "tokens": ended, "mask": np.ones((4, 7), np.int32), "targets": ended,
            "decoder_tokens": np.concatenate([np.zeros((4, 1), np.int32), ended[:, :-1]], 1),
            "weights": np.ones((4, 7), np.float32), "rows": np.asarray([1, 1, 1, 0], np.float32),
        }  # fmt: skip


def test_batches_are_written_as_they_are(tmp_path):
    translate_sides.write(tmp_path / "a.npz", batches())
    with np.load(tmp_path / "a.npz") as held:
        for number, batch in enumerate(batches()):
            for name, values in batch.items():
                np.testing.assert_array_equal(held[f"{number}/{name}"], values)
        assert held["0/mask"].dtype == np.uint8 and len(held.files) == 18


def row(side, seed, bleu):
    return dict(side=side, seed=seed, lr=1e-3, minutes=1.0, parameters=1000, seconds=60.0, steps=10,
                tokens=500, bleu=bleu, chrf=2 * bleu, curve=[[30.0, 4.0], [60.0, 3.5]])  # fmt: skip


def test_the_table_has_means_errors_and_curves():
    args = bench.Parser(prog="x")
    translate.arguments(args)
    args = args.parse_args(["--minutes", "1"])
    rows = [row("torch stock", 0, 1.0), row("formulary", 0, 2.0), row("formulary", 1, 3.0)]
    lines = translate.table(args, rows).splitlines()
    assert "--minutes 1 --seeds 0 1 2 --settings stock" in lines[0]
    assert lines[4] == "| formulary | 1,000 | 1.00 | 10 | 500 | 2.50 ± 0.50 | 2.00 3.00 | 5.00 |"
    assert lines[5] == "| torch stock | 1,000 | 1.00 | 10 | 500 | 1.00 | 1.00 | 2.00 |"
    assert lines[-1] == "- torch stock: 0.5 min 4.000; 1.0 min 3.500"


@needs_torch
def test_the_peer_learns_to_copy_and_stops_at_the_end(tmp_path):
    from scripts.bench import translator

    for name in ("data", "heldout", "test"):
        translate_sides.write(tmp_path / f"{name}.npz", list(batches(1)) * 300)
    np.save(tmp_path / "rates.npy", np.full(300, 3e-3))
    job = dict(
        model=MODEL, seed=0, b1=0.9, b2=0.98, eps=1e-9, weight_decay=0.0, clip=0.0, smoothing=0.0,
        rates=str(tmp_path / "rates.npy"), steps=300, points=[1], evaluate=True, eos=1, extra=5,
        autocast=False, compile=False, fused=False,
        **{n: str(tmp_path / f"{n}.npz") for n in ("data", "heldout", "test")},
    )  # fmt: skip
    found = translator.train(job)
    (_, first), (_, last) = found["curve"]
    assert last < 0.1 < math.log(40) / 2 < first
    want = next(batches())["targets"][:3, :-1].tolist()
    assert found["written"][:3] == want and len(found["written"]) == 900
    assert found["tokens"] == 300 * 28 and len(found["times"]) == 300


@needs_torch
@pytest.mark.slow
def test_the_whole_benchmark_on_small_pairs(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    parts = ["train"] * 60 + ["heldout"] * 4 + ["test"] * 4
    path.write_text("".join(
        json.dumps({"text": f"w{n % 7} w{n % 5}", "target": f"w{n % 5} w{n % 7}", "part": part}) + "\n"
        for n, part in enumerate(parts)
    ))  # fmt: skip
    sets = ["model.width=16", "model.ff=32", "model.vocab=300", "data.tokenizer=bpe:280", "length=32",
            "model.context=96", f"data.train={path}", "data.tokens=64"]  # fmt: skip
    arguments = ["translate", "--minutes", "0.4", "--seeds", "0", "--points", "2", "--calibrate", "6",
                 "--out", str(tmp_path / "out"), "--set", *sets]  # fmt: skip
    assert bench.main(arguments) == 0
    rows = report.load(tmp_path / "out" / "runs.jsonl")
    assert [r["side"] for r in rows] == ["formulary", "torch stock"]
    assert all(0 <= r["bleu"] <= 100 and r["tokens"] > 0 and len(r["curve"]) >= 2 for r in rows)
    assert rows[1]["parameters"] - rows[0]["parameters"] == 4 * 16, "a norm behind each stack"
    assert "torch stock" in capsys.readouterr().out
