"""Corrupted rows of running text: what the source lost is in the target, held-out rows never change."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from train.data import denoised, denoising, text, tokenizer

BASE = {"seed": 0, "length": 32, "batch": 4, "model": {"start": 0}, "eval": {"batches": 2}}


def config(**noise):
    data = {"source": "shakespeare", "tokenizer": "char", "packing": "noise", "noise": noise}
    return {**BASE, "data": data}


@pytest.fixture(scope="module")
def characters():
    return text.load_tokenizer(config())


def test_t5_s_rows_are_full_and_restore_the_text(characters):
    stream = denoised.open_stream(config(), characters)
    batch = stream.batch(3)
    raw = denoising.raw_length(32)
    size, target = denoising.span_sizes(raw, 0.15, 3.0)
    assert batch["tokens"].shape == (4, 32) and batch["targets"].shape == (4, target)
    assert (batch["mask"].sum(1) == size).all() and (batch["weights"] == 1).all()
    first, needed = denoised.extra(characters, denoised.noise(config()))
    assert (first, needed) == (characters.vocab + 99, characters.vocab + 100)
    ring = stream.windows(32)[0].ring
    whole = characters.decode(ring.corpus.read(0, ring.corpus.tokens))
    for source, mask, row in zip(batch["tokens"], batch["mask"], batch["targets"], strict=True):
        again = denoising.restore(source[mask > 0], row, first, 100)
        assert len(again) == raw and characters.decode(again) in whole


def test_bart_s_target_is_the_row_itself(characters):
    stream = denoised.open_stream(config(kind="permute+infill", rate=0.3), characters)
    batch = stream.batch(0)
    assert batch["targets"].shape == (4, 32) and (batch["targets"][:, -1] == characters.eos).all()
    mark, needed = denoised.extra(characters, denoised.noise(config(kind="infill")))
    assert mark == characters.vocab and needed == mark + 1
    assert (batch["tokens"] == mark).any(1).all()
    assert (batch["mask"].sum(1) < 32).any()
    assert (batch["decoder_tokens"][:, 1:] == batch["targets"][:, :-1]).all()


def test_epochs_draw_anew_and_held_out_rows_do_not(characters):
    how = config()
    stream = denoised.open_stream(how, characters)
    assert not np.array_equal(stream.batch(0)["tokens"], stream.batch(1)["tokens"])
    one, two = (denoised.heldout(how, characters) for _ in range(2))
    assert len(one) == 2 and all(
        np.array_equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in a
    )


@pytest.mark.parametrize("heldout, sources", [((), 2), (("w1", "w2"), 1)])
def test_every_held_out_row_of_a_mixture_is_scored_once(tmp_path, heldout, sources):
    """Whatever the weights, the phases, and though a source may have nothing held out."""
    for name, front in (("one", "w"), ("two", "x")):
        rows = [{"name": f"{front}{n}", "text": f"{front}{n} of {name}. " * 30} for n in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mixture = tuple(
        (str(tmp_path / f"{name}.jsonl"), w) for name, w in (("one", 9.0), ("two", 1.0))
    )
    how = config() | {"eval": {"batches": 0}, "phases": ((5, 16, 2),), "batch": 8}
    how["data"] |= {"mixture": mixture, "heldout": heldout, "tokenizer": "byte"}
    bytes_of = tokenizer.named("byte")
    made = denoised.heldout(how, bytes_of)
    windows = denoised.open_stream(how, bytes_of, "train").packings["noise"]
    opened = [part for part in text.open_all(how, bytes_of) if len(part[4])]
    counts = [windows(corpus, held, 32, bytes_of).count for _, _, corpus, _, held in opened]
    assert len(counts) == sources and made[-1]["tokens"].shape == (8, 32)
    real = np.concatenate([batch["rows"] for batch in made])
    assert real.sum() == sum(counts) and len(made) == -(-sum(counts) // 8)
    assert ((np.concatenate([batch["weights"] for batch in made]) > 0).any(1) == (real > 0)).all()
    half = [denoised.heldout(how, bytes_of, process, 2)[-1]["rows"] for process in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(half), made[-1]["rows"])
    how["eval"] = {"batches": 1}
    (short,) = denoised.heldout(how, bytes_of)
    assert all(np.array_equal(short[name], made[0][name]) for name in short)


def test_what_does_not_fit_is_named(characters):
    with pytest.raises(ValueError, match="noise has no field 'span_length'"):
        denoised.noise(config(span_length=3))
    long = {**config(rate=0.5), "length": 1024}
    with pytest.raises(ValueError, match="needs .* sentinels; at most 100"):
        denoised.open_stream(long, characters)
    with pytest.raises(ValueError, match="noise.span is 1.0: as many masks as tokens"):
        denoised.open_stream(config(kind="infill", span=1.0), characters)
    with pytest.raises(ValueError, match="config.length=2 leaves no room for noise"):
        denoised.open_stream({**config(), "length": 2}, characters)


def test_a_source_that_its_masks_make_too_long_is_drawn_again_and_never_cut(
    characters, monkeypatch
):
    how, sizes, corrupt = config(kind="infill", rate=0.4, span=1.1), [], denoising.corrupt

    def spied(*args):
        sizes.append(len(made := corrupt(*args)))
        return made

    monkeypatch.setattr(denoising, "corrupt", spied)
    stream = denoised.open_stream(how, characters)
    batches = [stream.batch(step) for step in range(12)]
    kept = np.concatenate([batch["mask"].sum(1) for batch in batches])
    fits = [size + 1 for size in sizes if size < 32]
    assert len(sizes) > len(kept) == 48 and kept.tolist() == fits
    again = denoised.open_stream(how, characters).batch(11)
    assert all(np.array_equal(again[name], x) for name, x in batches[11].items())


@pytest.mark.parametrize("step, words", [(-1, ""), (1, "<extra_id_1> is 5, <extra_id_0> 4;")])
def test_a_tokenizer_s_own_sentinels_count_down(step, words):
    names = [f"<extra_id_{n}>" for n in range(3)][::step]
    raw = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<pad>": 2, "b": 3}, "a"))
    raw.add_special_tokens(names)
    own = tokenizer.Tokenizer.wrap(raw, "file", eos=1, pad=2)
    if not words:
        assert denoised.sentinels(own) == [6, 5, 4]
        assert denoised.extra(own, denoising.Noise()) == (6, 7)
        return
    with pytest.raises(ValueError, match=words):
        denoised.extra(own, denoising.Noise())


def test_what_stands_in_front_of_every_text_begins_bart_s_rows(characters):
    """BART's <s>: in sources and targets, behind the start, and never under the noise."""
    own = tokenizer.Tokenizer.wrap(
        tokenizers.Tokenizer.from_str(characters.raw.to_str()), "file", eos=characters.eos
    )
    first = own.raw.token_to_id("a")
    own.raw.post_processor = tokenizers.processors.TemplateProcessing(
        single=["a", "$A", "end"],
        special_tokens=[("a", first), {"id": "end", "ids": [own.eos], "tokens": ["<|endoftext|>"]}],
    )
    stream = denoised.open_stream(config(kind="mask", rate=0.9), own)
    batch = stream.batch(0)
    assert stream.fingerprint["front"] == [first]
    assert (batch["tokens"][:, 0] == first).all() and (batch["targets"][:, 0] == first).all()
    assert (batch["decoder_tokens"][:, :2] == [0, first]).all()
    assert (batch["mask"].sum(1) == 32).all() and (batch["targets"][:, -1] == own.eos).all()
    plain = denoised.open_stream(config(), own).batch(0)
    assert (
        plain["mask"].sum(1) == denoising.span_sizes(denoising.raw_length(32), 0.15, 3)[0]
    ).all()
