"""Beam search against the reference library, on Markov chains whose tables are the model."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import beam, prompts
from models import generate as generation
from models.generate import Settings

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/decoding/beam_search.json").read_text())
CASES = [(case, name) for case, value in GOLDEN["cases"].items() for name in value["outputs"]]


def markov(params, tokens, mask, cache):
    """A step whose logits are the row of the last token."""
    return params[tokens[:, -1]], cache


def forget(cache, rows):
    return cache


def run(table, prompts, settings, keys=None, mask=None, limits=None):
    prompts = jnp.asarray(prompts, jnp.int32)
    mask = jnp.ones_like(prompts) if mask is None else jnp.asarray(mask)
    call = jax.jit(
        lambda logits, tokens, mask: generation.decode(
            markov, logits, {}, tokens, mask, keys, settings, forget, limits
        )
    )
    return call(jnp.asarray(table, jnp.float32), prompts, mask)


def of(name):
    """Settings from a golden case's name, like beams2_lp-1.0_early_never."""
    beams, penalty, early = name.split("_", 2)
    early = early.removeprefix("early_")
    return Settings(
        max_new_tokens=GOLDEN["inputs"]["max_new_tokens"],
        eos=(GOLDEN["inputs"]["eos"],),
        pad=GOLDEN["inputs"]["pad"],
        num_beams=int(beams[5:]),
        num_return_sequences=int(beams[5:]),
        length_penalty=float(penalty[2:]),
        early_stopping={"True": True, "False": False}.get(early, early),
    )


def reference_order(values, count):
    """Which of equal values torch.topk takes on CPU: std::nth_element, then a stable sort.

    The tables hold exact ties, so that the golden sequences depend on it. A port of libstdc++'s
    introselect for the sizes met here; the values are real, so `>` is a total order.
    """
    values = np.asarray(values)
    rows = [_select(row, list(range(len(row))), count) for row in values]
    rows = jnp.asarray(rows)
    return jnp.take_along_axis(jnp.asarray(values), rows, 1), rows


def _select(value, order, count):
    before = lambda a, b: value[order[a]] > value[order[b]]  # noqa: E731

    def swap(a, b):
        order[a], order[b] = order[b], order[a]

    first, last, nth = 0, len(order), count - 1
    while last - first > 3:
        a, b, c = first + 1, first + (last - first) // 2, last - 1
        if before(a, b):
            median = b if before(b, c) else c if before(a, c) else a
        else:
            median = a if before(a, c) else c if before(b, c) else b
        swap(first, median)
        low, high = first + 1, last
        while True:
            while before(low, first):
                low += 1
            high -= 1
            while before(first, high):
                high -= 1
            if low >= high:
                break
            swap(low, high)
            low += 1
        first, last = (low, last) if low <= nth else (first, low)
    order[first:last] = sorted(order[first:last], key=lambda i: -value[i])
    order[:nth] = sorted(order[:nth], key=lambda i: -value[i])
    return order[:count]


@pytest.mark.parametrize(("case", "name"), CASES)
def test_golden_with_the_reference_order_of_ties(case, name, monkeypatch):
    monkeypatch.setattr(beam, "top", reference_order)
    case = GOLDEN["cases"][case]
    want = case["outputs"][name]
    with jax.disable_jit():
        table = np.log(np.float32(case["transition_probs"]))
        got = run(table, [GOLDEN["inputs"]["start"]], of(name))
    assert got.cropped().tolist() == want["sequences"]
    if want["scores"] is not None:
        np.testing.assert_allclose(got.sequences_scores, want["scores"], rtol=2e-6)


@pytest.mark.parametrize("early", [True, False, "never"])
def test_compiled(early):
    """Two beams and penalty 2: three settings, three best sequences."""
    case = GOLDEN["cases"]["length_penalty_and_early_stopping"]
    name = f"beams2_lp2.0_early_{early}"
    table = np.log(np.float32(case["transition_probs"]))
    got = run(table, [GOLDEN["inputs"]["start"]], of(name))
    assert got.cropped().tolist() == case["outputs"][name]["sequences"]
    np.testing.assert_allclose(got.sequences_scores, case["outputs"][name]["scores"], rtol=2e-6)


def test_gnmt_s_rule_divides_by_its_own_lengths():
    """The same search under both rules: scores are sums over n^a, or over ((5 + n) / 6)^a."""
    table = np.log(
        np.float32(GOLDEN["cases"]["length_penalty_and_early_stopping"]["transition_probs"])
    )
    base = Settings(
        max_new_tokens=5, eos=(GOLDEN["inputs"]["eos"],), num_beams=3, num_return_sequences=3,
        length_penalty=0.6, early_stopping="never",
    )  # fmt: skip
    for rule, lengths in (("power", lambda n: n), ("gnmt", lambda n: (5 + n) / 6)):
        got = run(table, [GOLDEN["inputs"]["start"]], dataclasses.replace(base, length_rule=rule))
        sums = np.asarray(got.log_probs).sum(1)
        want = sums / lengths(np.asarray(got.lengths)) ** 0.6
        np.testing.assert_allclose(got.sequences_scores, want, rtol=1e-5)
    with pytest.raises(ValueError, match="length_rule is 'wu'"):
        Settings(length_rule="wu")


@pytest.mark.parametrize(
    ("beams", "early", "penalty"), [(1, False, 1.0), (3, "never", 0.6), (3, False, -1.0)]
)
def test_a_row_s_limit_is_what_max_new_tokens_would_be_for_it_alone(beams, early, penalty):
    """Rows that end at 2, 5 and 7 of 7 new tokens, in one search and each in its own."""
    table = jax.random.normal(jax.random.key(3), (9, 9)) * 2
    base = Settings(
        max_new_tokens=7, eos=(8,), pad=0, num_beams=beams, num_return_sequences=beams,
        length_penalty=penalty, length_rule="gnmt", early_stopping=early,
    )  # fmt: skip
    starts, limits = [[1], [1], [4]], np.asarray([2, 5, 7], np.int32)
    got = run(table, starts, base, limits=limits)
    for row, (start, limit) in enumerate(zip(starts, limits.tolist(), strict=True)):
        alone = run(table, [start], dataclasses.replace(base, max_new_tokens=limit))
        mine = slice(row * beams, (row + 1) * beams)
        assert got.lengths[mine].tolist() == alone.lengths.tolist() and limit in alone.lengths
        assert [x.tolist() for x in got.new()[mine]] == [x.tolist() for x in alone.new()]
        assert got.stopped[mine].tolist() == alone.stopped.tolist()
        if beams > 1:
            np.testing.assert_allclose(
                got.sequences_scores[mine], alone.sequences_scores, rtol=1e-6
            )


def test_limits_that_cannot_hold_are_refused():
    s = Settings(max_new_tokens=6, min_new_tokens=2)
    assert prompts.limits([2, 9], 2, s).tolist() == [2, 6]
    for given, more, words in (
        ([3], {}, "expected 2 integers"),
        ([1, 4], {}, "limit is 1; expected at least 2"),
        ([3, 4], {"forced_last": (1,)}, "forced_last"),
    ):
        with pytest.raises(ValueError, match=words):
            prompts.limits(given, 2, dataclasses.replace(s, **more))


def test_every_end_of_text_of_every_beam_leaves_room_for_what_goes_on():
    """Two ends fill the best four places of the second step; the beams go on with what stands behind."""
    table = np.full((5, 5), 1e-9)
    table[0] = table[1] = 1e-9, 0.20, 0.19, 0.31, 0.30
    table[2] = 1e-9, 0.18, 0.17, 0.33, 0.32
    settings = Settings(
        max_new_tokens=3, eos=(3, 4), pad=0, num_beams=2, num_return_sequences=2, length_penalty=2.0,
        early_stopping="never",
    )  # fmt: skip
    out = run(np.log(table), [[0]], settings)
    assert np.asarray(out.sequences)[:, 1:].tolist() == [[1, 2, 3], [1, 1, 3]]
    want = np.log([0.20 * 0.19 * 0.33, 0.20 * 0.20 * 0.31]) / 9
    np.testing.assert_allclose(out.sequences_scores, want, rtol=1e-4)
