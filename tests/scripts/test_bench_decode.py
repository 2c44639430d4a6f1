"""The decoding benchmark: how tokens are compared, the memory bound, and a toy run of our side."""

import json

import pytest

from scripts.bench import __main__ as bench
from scripts.bench import decode


def test_tokens_are_compared_up_to_the_first_difference():
    assert decode.equal([[1, 2, 3, 4]], [[1, 2, 3, 4]]) == 1.0
    assert decode.equal([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 9, 3, 4], [5, 6, 7, 8]]) == 0.625


def test_the_bound_is_weights_over_the_best_bandwidth():
    own = {"name": "formulary", "wall": [0.4, 0.5, 0.6], "single": {"wall": 0.1, "cpu": 0.1}}
    found = {"read": 10e9, "scale": 20e9}
    text = decode.bound(
        {"bandwidth": found, "weight_bytes": 100e6, "modes": {"greedy1": [own]}, "new": 5}
    )
    assert "100 MB of weights at 20.0 GB/s" in text and "= 5.0 ms a token" in text
    assert "100.0 ms a token with the prompt (20.00 of the bound), 100.0 ms without" in text


def test_our_side_runs_and_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decode.bench_lanes, "PAUSE", 0)
    out = tmp_path / "result.json"
    words = "decode --size tiny --against none --prompt 4 --new 3 --rounds 1 --modes greedy8 beam4"
    assert bench.main([*words.split(), "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    assert set(kept["modes"]) == {"greedy8", "beam4"} and not kept["bandwidth"]
    assert all(mode[0]["equal"] == 1.0 and mode[0]["cpu"] for mode in kept["modes"].values())
    assert "| beam4 | formulary |" in capsys.readouterr().out


def test_an_unknown_mode_is_named(capsys):
    with pytest.raises(SystemExit):
        bench.main(["decode", "--modes", "greedy9"])
    assert "greedy9" in capsys.readouterr().err
