"""Corrupted rows of running text: what the source lost is in the target, held-out rows never change."""

import numpy as np
import pytest

from train.data import denoised, denoising, text

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


def test_what_does_not_fit_is_named(characters):
    with pytest.raises(ValueError, match="noise has no field 'span_length'"):
        denoised.noise(config(span_length=3))
    long = {**config(rate=0.5), "length": 1024}
    with pytest.raises(ValueError, match="needs .* sentinels; at most 100"):
        denoised.open_stream(long, characters)
