"""The filters against the reference library's own outputs, every case of the golden file."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import sampling
from models.generate import Settings

GOLDEN = json.loads(
    (Path(__file__).parent.parent / "golden/decoding/sampling_filters.json").read_text()
)
LOGITS = jnp.log(jnp.asarray(GOLDEN["inputs"]["probs"], jnp.float32))
IDS = jnp.asarray(GOLDEN["inputs"]["input_ids"], jnp.int32)
OUT = GOLDEN["outputs"]


def past(ids, prompt=0, mask=None):
    """A history whose buffer has room for two more tokens than `ids` [R,T]."""
    ids = jnp.asarray(ids, jnp.int32)
    mask = jnp.ones(ids.shape, bool) if mask is None else jnp.asarray(mask, bool)
    pads = ((0, 0), (0, 2))
    step = jnp.int32(ids.shape[1] - prompt)
    return sampling.History(jnp.pad(ids, pads), jnp.pad(mask, pads), prompt, step)


def kept(logits):
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in np.asarray(logits)]


def test_the_largest_is_argmax_s():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, 300)).astype(np.float32)
    scores[1, [5, 40]] = 9.0  # two that are equal
    scores[2] = -np.inf
    scores[3, 1:] = -np.inf
    scores[4, [7, 9]] = np.nan
    scores[5, 299] = np.inf
    np.testing.assert_array_equal(sampling.largest(jnp.asarray(scores)), np.argmax(scores, -1))
    assert sampling.largest(jnp.asarray(scores)).tolist()[1:6] == [5, 0, 0, 7, 299]


def test_the_largest_of_what_is_made_on_the_way():
    """Compiled with what makes the scores, both reductions must see the same numbers."""
    keys = jax.random.split(jax.random.key(0), 5)
    pick = jax.jit(lambda x, step: sampling.largest(x / 0.7 + sampling.noise(keys, step, 2000)))
    plain = jax.jit(lambda x, step: jnp.argmax(x / 0.7 + sampling.noise(keys, step, 2000), -1))
    for step in range(40):
        x = jax.random.normal(jax.random.key(step), (5, 2000)) * 3
        np.testing.assert_array_equal(pick(x, step), plain(x, step))


def test_noise_is_of_a_row_s_key_and_step_alone(monkeypatch):
    keys = jax.random.split(jax.random.key(3), 4)
    found = np.asarray(sampling.noise(keys, 2, 50))
    assert len({row.tobytes() for row in found}) == 4
    for n in range(4):
        want = jax.random.gumbel(jax.random.fold_in(keys[n], 2), (50,))
        np.testing.assert_array_equal(found[n], want)
        np.testing.assert_array_equal(sampling.noise(keys[n : n + 1], 2, 50)[0], want)
    monkeypatch.setattr(sampling, "alone", lambda: False)  # as on an accelerator: rows at once
    np.testing.assert_array_equal(sampling.noise(keys, 2, 50), found)
    assert not np.array_equal(sampling.noise(keys, 3, 50), found)


def number(name):
    return float(name.rsplit("_", 1)[1])


@pytest.mark.parametrize("name", [n for n in OUT if n.startswith("temperature")])
def test_temperature(name):
    got = sampling.warp(LOGITS, Settings(temperature=number(name)))
    np.testing.assert_allclose(got, OUT[name]["logits"], rtol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(got), OUT[name]["probs"], rtol=2e-6)


FILTERS = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical": "typical_p",
    "epsilon": "epsilon",
    "eta": "eta",
}


@pytest.mark.parametrize("name", [n for n in OUT if n.rsplit("_", 1)[0] in FILTERS])
def test_filter(name):
    value = number(name)
    field = FILTERS[name.rsplit("_", 1)[0]]
    settings = Settings(temperature=1.0, **{field: int(value) if field == "top_k" else value})
    assert kept(jax.jit(sampling.warp, static_argnums=1)(LOGITS, settings)) == OUT[name]["kept"]


@pytest.mark.parametrize("name", [n for n in OUT if n.startswith("openai2019")])
def test_top_p_without_the_crossing_token(name):
    settings = Settings(temperature=1.0, top_p=number(name), nucleus="within")
    assert kept(sampling.warp(LOGITS, settings)) == OUT[name]["kept"]


@pytest.mark.parametrize("name", [n for n in OUT if n.startswith("repetition")])
def test_repetition_penalty(name):
    logits = jnp.asarray(OUT[name]["input"], jnp.float32)
    got = sampling.process(logits, past(IDS, 1), Settings(repetition_penalty=number(name)))
    np.testing.assert_allclose(got, OUT[name]["logits"], rtol=1e-6)


def test_no_repeat_ngram():
    case = OUT["no_repeat_ngram_2"]
    got = sampling.process(LOGITS[:1], past(case["input_ids"], 2), Settings(no_repeat_ngram=2))
    assert kept(got) == case["kept"]


def test_min_new_tokens():
    for length, want in OUT["min_new_tokens_2_eos3_prompt2"].items():
        ids = np.ones((1, int(length[3:])), np.int32)
        settings = Settings(min_new_tokens=2, eos=(3,))
        assert kept(sampling.process(LOGITS[:1], past(ids, 2), settings)) == want
    both = sampling.process(LOGITS[:1], past([[1, 1]], 2), Settings(min_new_tokens=1, eos=(3, 0)))
    assert kept(both) == [[1, 2]]


def test_temperature_comes_before_top_p():
    settings = Settings(temperature=2.0, top_p=0.8)
    assert kept(sampling.warp(LOGITS, settings)) == OUT["order_temperature2_then_top_p.8"]["kept"]
    other = sampling.warp(sampling.top_p(LOGITS, 0.8), Settings(temperature=2.0))
    assert kept(other) == OUT["order_top_p.8_then_temperature2"]["kept"]


def test_every_golden_case_is_held_here():
    known = ("temperature", "openai2019", "repetition", "no_repeat_ngram_2", "min_new_tokens_2")
    known += ("order_",)
    rest = [n for n in OUT if not n.startswith(known) and n.rsplit("_", 1)[0] not in FILTERS]
    assert not rest


def test_frequency_and_presence_count_generated_tokens_only():
    logits = jnp.zeros((1, 4))
    history = past([[1, 2, 3, 3, 0]], prompt=2)
    got = sampling.process(logits, history, Settings(frequency_penalty=0.5, presence_penalty=2.0))
    np.testing.assert_allclose(got, [[-2.5, 0.0, 0.0, -3.0]])


def test_bad_words():
    words = ((2,), (0, 1), (3, 0, 3), (1, 1, 1, 1, 1, 1, 1))
    settings = Settings(bad_words=words, eos=(2,))
    assert kept(sampling.process(LOGITS[:1], past([[2, 3, 0]], 1), settings)) == [[0, 2]]
    assert kept(sampling.process(LOGITS[:1], past([[0, 3, 3]], 1), settings)) == [[0, 1, 2, 3]]
    alone = Settings(bad_words=((2,),))
    assert kept(sampling.process(LOGITS[:1], past([[0]], 1), alone)) == [[0, 1, 3]]


def test_forced_and_suppressed():
    settings = Settings(forced_first=2, forced_last=(1, 3), suppress=(3,), max_new_tokens=3)
    at = (
        lambda step: kept(  # noqa: E731
            sampling.process(LOGITS[:1], past(np.zeros((1, 1 + step)), 1), settings)
        )
    )
    assert [at(0), at(1), at(2)] == [[[2]], [[0, 1, 2]], [[1]]]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ngrams_against_a_dictionary(size):
    ids = np.random.default_rng(size).integers(0, 3, (6, 9))
    pads = np.array([0, 1, 3, 5, 8, 4])
    mask = np.arange(9) >= pads[:, None]
    got = sampling.no_repeat_ngram(jnp.zeros((6, 4)), past(ids, 9, mask), size)
    for row, pad, banned in zip(ids, pads, ~np.isfinite(np.asarray(got)), strict=True):
        real = row[pad:].tolist()
        grams = [real[i : i + size] for i in range(len(real) - size + 1)]
        prefix = real[len(real) - size + 1 :] if size > 1 else []
        want = {gram[-1] for gram in grams if gram[:-1] == prefix and len(real) >= size}
        assert set(np.flatnonzero(banned)) == want


def test_padding_changes_nothing():
    settings = Settings(repetition_penalty=1.7, no_repeat_ngram=2, frequency_penalty=0.3)
    short = past([[1, 3, 1]], 2)
    long = past([[3, 1, 1, 3, 1]], 4, [[0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(
        sampling.process(LOGITS[:1], short, settings), sampling.process(LOGITS[:1], long, settings)
    )


def test_filters_keep_the_number_that_beams_need():
    settings = Settings(temperature=1.0, top_k=1, top_p=0.1, min_p=0.99, epsilon=0.9, eta=0.9)
    assert all(len(row) >= 3 for row in kept(sampling.warp(LOGITS, settings, keep=3)))


def test_the_coldest_temperature_draws_the_largest():
    cold = sampling.warp(LOGITS * 1e3, Settings(temperature=1e-30))
    assert np.isfinite(cold).all()
    assert (np.argmax(cold, -1) == np.argmax(LOGITS, -1)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 1.5},
        {"top_k": 2.5},
        {"max_new_tokens": 0},
        {"min_new_tokens": 9, "max_new_tokens": 3},
        {"eos": [1]},
        {"early_stopping": "always"},
        {"early_stopping": 1},
        {"forced_first": 3, "suppress": (2, 3)},
        {"forced_last": (2, 3), "suppress": (2, 3)},
        {"num_return_sequences": 2},
        {"num_beams": 2, "num_return_sequences": 3},
        {"num_beams": 2, "stop": ("x",)},
        {"stop": ("",)},
        {"repetition_penalty": 0.0},
        {"nucleus": "both"},
        {"temperature": 1e-40},
        {"eos": ("a",)},
        {"eos": (True,)},
        {"suppress": (2.0,)},
        {"forced_last": (None,)},
        {"stop": (5,)},
        {"bad_words": (5,)},
        {"bad_words": ((1, "x"),)},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)
