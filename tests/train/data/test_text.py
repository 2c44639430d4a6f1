"""The stream is a pure function of (seed, step); held-out tokens are scored once each."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from train.data import text, tokenizer
from train.data.corpus import Memory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve works of very different lengths, some empty, one longer than many rows."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "works.jsonl"
    with open(path, "w") as file:
        for number, size in enumerate([900, 3, 0, 40, 41, 39, 7, 250, 80, 1, 120, 60]):
            letters = rng.choice(list("abcdefgh \n"), size)
            file.write(json.dumps({"name": f"w{number}", "text": f"{''.join(letters)}"}) + "\n")
    return str(path)


def config(source, **changes):
    data = {"source": source, "tokenizer": "char", "packing": "contiguous", "mixture": ()}
    data["heldout"] = ("w8", "w10")
    top = {"seed": 3, "batch": 4, "length": 16, "phases": ()}
    for name, value in changes.items():
        (top if name in top else data)[name] = value
    return ConfigDict({**top, "data": data})


def opened(settings, **where):
    return text.open_stream(settings, text.load_tokenizer(settings), **where)


def check(left, right):
    assert set(left) == set(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("packing", ["contiguous", "documents"])
def test_a_batch_depends_on_seed_and_step_alone(corpus, packing):
    settings = config(corpus, packing=packing)
    forwards = [opened(settings).batch(step) for step in range(60)]
    fresh = opened(settings)
    for step in (59, 0, 31, 7):
        check(fresh.batch(step), forwards[step])
    other = opened(config(corpus, packing=packing, seed=4))
    assert any(np.any(other.batch(s)["tokens"] != forwards[s]["tokens"]) for s in range(3))
    for name, values in forwards[0].items():
        assert values.shape == (4, 16)
        assert values.dtype == (np.float32 if name == "weights" else np.int32)


@pytest.mark.parametrize("packing", ["contiguous", "documents"])
@pytest.mark.parametrize("mixed", [False, True])
def test_processes_take_rows_of_the_same_global_batch(corpus, packing, mixed):
    pairs = ((corpus, 2.0), ("vader-tweets", 1.0))
    extra = {"mixture": pairs, "heldout": ()} if mixed else {}
    settings = config(corpus, packing=packing, tokenizer="byte", **extra)
    single = opened(settings)
    streams = [opened(settings, process=p, processes=4) for p in range(4)]
    for step in (0, 9, 1000):
        parts = [stream.batch(step) for stream in streams]
        whole = single.batch(step)
        check({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)


def test_contiguous_rows_cover_the_ring_each_epoch(corpus):
    settings = config(corpus)
    stream = opened(settings)
    made, windows = stream.tokenizer, stream.windows(16)[0]
    memory = Memory(corpus, made)
    train, held = memory.split(("w8", "w10"))
    assert [memory.names[i] for i in held] == ["w8", "w10"]
    ring = np.concatenate([memory.read(memory.starts[i], memory.ends[i]) for i in train])
    assert windows.tokens == stream.tokens == len(ring)
    assert sum(ring == made.eos) == 10
    double = np.concatenate([ring, ring, ring])
    starts = []
    for epoch in range(2):
        seen = np.zeros(len(ring), int)
        rows, places = [], set()
        for sample in range(epoch * windows.count, (epoch + 1) * windows.count):
            batch = stream.batch(sample // 4)
            rows.append(np.append(batch["tokens"][sample % 4], batch["targets"][sample % 4][-1]))
            np.testing.assert_array_equal(batch["tokens"][sample % 4][1:], rows[-1][1:-1])
            np.testing.assert_array_equal(batch["targets"][sample % 4], rows[-1][1:])
            assert np.all(batch["weights"] == 1)
        for row in rows:
            at = [i for i in range(len(ring)) if np.array_equal(double[i : i + 17], row)]
            assert at
            places.add(at[0])
            seen[(at[0] + 1 + np.arange(16)) % len(ring)] += 1
        assert seen.min() >= 1 and seen.sum() - len(ring) < 16 + 1
        starts.append(places)
    assert len(starts[0] & starts[1]) < len(starts[0]) / 2


@pytest.mark.parametrize(
    "roles", [{"eos": "<|endoftext|>", "bos": "<|endoftext|>"}, {"eos": "<|endoftext|>"}, {}]
)
def test_packed_documents_never_cross_and_lose_nothing(corpus, roles):
    settings = config(corpus, packing="documents")
    made = tokenizer.Tokenizer.wrap(text.load_tokenizer(settings).raw, "char", **roles)
    stream = text.open_stream(settings, made)
    windows = stream.windows(16)[0]
    memory = Memory(corpus, made)
    train, _ = memory.split(("w8", "w10"))
    want = []
    for i in train:
        tokens = memory.read(memory.starts[i], memory.ends[i]).tolist()
        tokens = [made.bos] * (made.bos >= 0) + tokens
        want += list(zip(tokens[:-1], tokens[1:]))
    got = []
    for sample in range(windows.count):
        batch = {k: v[sample % 4] for k, v in stream.batch(sample // 4).items()}
        np.testing.assert_array_equal(batch["weights"] > 0, batch["segments"] > 0)
        assert batch["weights"].any()
        for segment in range(1, batch["segments"].max() + 1):
            inside = batch["segments"] == segment
            tokens, targets = batch["tokens"][inside], batch["targets"][inside]
            np.testing.assert_array_equal(batch["positions"][inside], np.arange(inside.sum()))
            np.testing.assert_array_equal(tokens[1:], targets[:-1])
            got += list(zip(tokens.tolist(), targets.tolist()))
        filled = batch["segments"][batch["segments"] > 0]
        assert np.all(np.diff(filled) >= 0) and np.all(batch["segments"][len(filled) :] == 0)
    assert sorted(got) == sorted(want)
    report = windows.report
    assert report["documents"] == 10 and report["rows"] == windows.count
    assert report["split"] == sum(
        memory.ends[i] - memory.starts[i] - (made.bos < 0) > 16 for i in train
    )
    assert 0.5 < report["fill"] <= 1


def test_mixtures_keep_their_weights_and_purity(corpus):
    settings = config(corpus, mixture=((corpus, 3.0), ("shakespeare", 1.0)), heldout=(), batch=64)
    stream = opened(settings)
    made = stream.tokenizer
    letters = set(made.encode("abcdefgh \n", special=False).tolist()) | {made.eos}
    ours = 0
    for step in range(128):
        ours += sum(set(row.tolist()) <= letters for row in stream.batch(step)["tokens"])
    assert ours / (128 * 64) == pytest.approx(0.75, abs=0.01)
    check(opened(settings).batch(77), stream.batch(77))


def test_a_held_out_name_of_a_mixture_need_be_in_one_source_only(corpus):
    pairs = ((corpus, 1.0), ("shakespeare", 1.0), ("vader-amazon", 1.0))
    settings = config(corpus, mixture=pairs, heldout=("w8", "hamlet", "w1?"))
    found = text.heldout(settings, text.load_tokenizer(settings), 16, 4)
    names = [f"{corpus}/w8", f"{corpus}/w10", f"{corpus}/w11", "shakespeare/hamlet"]
    assert found["names"] == names


def test_phases_change_the_shape_at_their_step(corpus):
    settings = config(corpus, phases=((5, 8, 12), (9, 32, 2)), length=16, batch=4)
    stream = opened(settings)
    shapes = [stream.batch(step)["tokens"].shape for step in range(12)]
    assert shapes == [(12, 8)] * 5 + [(2, 32)] * 4 + [(4, 16)] * 3
    check(opened(settings).batch(10), stream.batch(10))
    assert stream.epochs(5) == pytest.approx(60 / stream.windows(8)[0].count)
    assert stream.epochs(6) > stream.epochs(5)


@pytest.mark.parametrize("spec", ["char", "gpt2", "bpe:300"])
@pytest.mark.parametrize("processes", [1, 2])
def test_every_held_out_token_is_scored_once(corpus, spec, processes):
    settings = config(corpus, tokenizer=spec, heldout=("w0", "w3", "w9"))
    made = text.load_tokenizer(settings)
    parts = [text.heldout(settings, made, 16, 4, p, processes) for p in range(processes)]
    assert parts[0]["names"] == ["w0", "w3", "w9"]
    assert (parts[0]["characters"], parts[0]["bytes"]) == (941, 941)
    scored, inputs = [], []
    for batches in zip(*(part["batches"] for part in parts)):
        batch = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
        assert batch["tokens"].shape == (4, 16)
        assert batch["mask"][:, 0].all()
        scored += batch["targets"][batch["weights"] > 0].tolist()
        inputs += batch["tokens"][batch["weights"] > 0].tolist()
        assert np.all(batch["mask"][:, 1:] == batch["weights"][:, 1:])
    with open(corpus) as file:
        works = [json.loads(line)["text"] for line in file]
    tokens = [made.encode(works[i], special=False).tolist() for i in (0, 3, 9)]
    assert scored == sum(tokens, []) and parts[0]["tokens"] == len(scored)
    assert inputs == sum(([made.bos] + t[:-1] for t in tokens), [])


def test_a_limit_counts_what_it_scores(corpus):
    settings = config(corpus, heldout=("w0", "w3", "w9"))
    made = text.load_tokenizer(settings)
    whole = text.heldout(settings, made, 16, 4)
    for limit in (1, 5, len(whole["batches"])):
        part = text.heldout(settings, made, 16, 4, limit=limit)
        assert len(part["batches"]) == limit
        scored = [b["targets"][b["weights"] > 0] for b in part["batches"]]
        assert part["tokens"] == len(np.concatenate(scored))
        assert part["characters"] == len(made.decode(np.concatenate(scored)))
        for left, right in zip(part["batches"], whole["batches"]):
            check({k: left[k] for k in ("tokens",)}, {"tokens": right["tokens"]})
    assert part["characters"] == whole["characters"] and part["names"] == whole["names"]


def test_without_a_beginning_the_first_token_of_a_work_is_not_counted(corpus):
    settings = config(corpus)
    made = tokenizer.Tokenizer.wrap(text.load_tokenizer(settings).raw, "char")
    found = text.heldout(settings, made, 16, 4)
    assert found["characters"] == found["tokens"] == 80 + 120 - 2


def test_held_out_text_is_in_no_training_row_and_no_vocabulary(tmp_path):
    path = tmp_path / "works.jsonl"
    rows = [{"name": f"w{n}", "text": "abcd" * 30} for n in range(3)] + [
        {"name": "q", "text": "Q" * 99}
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = config(str(path), heldout=("q",))
    made = text.load_tokenizer(settings)
    assert made.raw.token_to_id("Q") is None and made.raw.token_to_id("a") is not None
    stream = text.open_stream(settings, made)
    assert not any((stream.batch(s)["tokens"] == ord("Q")).any() for s in range(40))
    assert text.open_stream(settings, made, split="heldout").tokens == 100


def test_a_document_that_mentions_the_end_does_not_end(tmp_path):
    path = tmp_path / "works.jsonl"
    rows = [{"name": f"w{n}", "text": "one <|endoftext|> two " * 9} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    for spec in ("gpt2", "char", "unigram:512"):
        settings = config(str(path), heldout=("w0",), tokenizer=spec)
        memory = Memory(str(path), made := text.load_tokenizer(settings))
        assert (memory.array == made.eos).sum() == 3


def test_the_fingerprint_sees_text_tokenizer_packing_and_split(corpus, tmp_path):
    base = opened(config(corpus)).fingerprint
    json.dumps(base)
    copy = tmp_path / "works.jsonl"
    copy.write_text(open(corpus).read())
    again = opened(config(str(copy))).fingerprint
    assert again["sources"][0]["files"] == base["sources"][0]["files"]
    copy.write_text(open(corpus).read().replace("a", "b", 1))
    for other in (
        config(str(copy)),
        config(corpus, tokenizer="byte"),
        config(corpus, packing="documents"),
        config(corpus, heldout=("w8",)),
    ):
        assert opened(other).fingerprint != base


@pytest.mark.parametrize(
    "changes,match",
    [
        ({"packing": "tight"}, "'tight', not one of"),
        ({"length": 5000}, "fewer than one row of 5000"),
        ({"heldout": ("w99",)}, "'w99' is not in"),
        ({"batch": 0}, "must be at least 1"),
        ({"phases": ((5, 8, 4), (3, 8, 4))}, "rising order"),
        ({"mixture": (("shakespeare", 0.0),), "heldout": ()}, "positive"),
        ({"mixture": (("shakespeare", 1.0), ("kjv", 1.0))}, "none of the mixture's sources"),
        ({"mixture": ("shakespeare",)}, "expected \\(source, weight\\)"),
        ({"tokenizer": "store"}, "no token store"),
    ],
)
def test_wrong_settings_are_explained(corpus, changes, match):
    with pytest.raises(ValueError, match=match) as caught:
        opened(config(corpus, **changes))
    assert str(caught.value).count("\n") < 3


def test_batches_that_do_not_divide_are_explained(corpus):
    settings = config(corpus)
    with pytest.raises(ValueError, match="does not divide by 3"):
        opened(settings, process=0, processes=3)
    with pytest.raises(ValueError, match="does not divide by 3"):
        text.heldout(settings, text.load_tokenizer(settings), 16, 4, 0, 3)


def test_a_large_source_is_sent_to_prepare(corpus, monkeypatch):
    monkeypatch.setattr("train.data.corpus.MEMORY_LIMIT", 10)
    with pytest.raises(ValueError, match="scripts.prepare --source"):
        Memory(corpus, tokenizer.gpt2())
    monkeypatch.setattr(
        "train.data.sources.works", None
    )  # nothing is read, nor a tokenizer trained
    with pytest.raises(ValueError, match="scripts.prepare --source"):
        text.load_tokenizer({"data": {"source": corpus, "tokenizer": "bpe:300"}})
    with pytest.raises(ValueError, match="a hub data set.*\n.*scripts.prepare --source hub:a/b"):
        text.load_tokenizer({"data": {"source": "hub:a/b", "tokenizer": "bpe:300"}})


@pytest.mark.parametrize("weight", ["1", None, True, (1.0,)])
def test_a_weight_is_a_number(corpus, weight):
    with pytest.raises(ValueError, match=f"gives kjv weight {re.escape(repr(weight))}, expected"):
        text.open_all({"data": {"mixture": ((corpus, 1.0), ("kjv", weight))}}, tokenizer.gpt2())


def test_data_needs_no_jax():
    code = "import sys; from train.data import text; import scripts.prepare; print('jax' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "False\n"
    )
