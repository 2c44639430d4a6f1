"""Generation: cached = full, batched = single, and the reference library's own sequences."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import families, prompts, streaming
from models import generate as generation
from models.build import build, example
from models.generate import generate
from models.options import Options
from models.settings import Settings
from models.step import Step
from models.transformer import stack

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/decoding/tiny_gpt2.json").read_text())
SMALL = dict(vocab=23, context=48, layers=2, width=16, heads=4, ff=32)
FORMS = {
    "gpt1": families.row("gpt1", **SMALL),
    "gpt2": families.row("gpt2", **SMALL),
    "gpt3": families.row("gpt3", **SMALL, window=3),
    "llama": families.row("llama", **SMALL, kv_heads=2),
    "moe": families.row("moe", **SMALL, kv_heads=2, experts=4, experts_per_token=2),
}


def make(name, **changes):
    """A small model with weights large enough that its choices differ."""
    o = Options.of({**FORMS[name], **changes})
    model = build(o)
    variables = model.init(jax.random.key(1), example(o))
    return model, jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, variables)


def ragged(rows=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 23, n).tolist() for n in (5, 2, 7, 1)[:rows]]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Many small functions are compiled here and each runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def tiny():
    """The golden file's GPT-2: its names and joined projections are the reference library's."""
    weights = {
        name.removeprefix("transformer."): np.array(w["data"], np.float32).reshape(w["shape"])
        for name, w in GOLDEN["weights"].items()
    }
    c = GOLDEN["config"]
    width, heads = c["n_embd"], c["n_head"]
    o = Options.of(
        families.row(
            "gpt2", vocab=c["vocab_size"], context=c["n_positions"], layers=c["n_layer"],
            width=width, heads=heads, ff=c["n_inner"], norm_eps=c["layer_norm_epsilon"],
        )
    )  # fmt: skip
    norm = lambda at: {"scale": weights[f"{at}.weight"], "bias": weights[f"{at}.bias"]}  # noqa: E731
    linear = lambda at: {"kernel": weights[f"{at}.weight"], "bias": weights[f"{at}.bias"]}  # noqa: E731
    blocks = {}
    for i in range(o.layers):
        at = f"h.{i}"
        joined = linear(f"{at}.attn.c_attn")
        split = zip(
            "qkv", np.split(joined["kernel"], 3, 1), np.split(joined["bias"], 3), strict=True
        )
        attn = {
            name: {"kernel": w.reshape(width, heads, -1), "bias": b.reshape(heads, -1)}
            for name, w, b in split
        }
        out = linear(f"{at}.attn.c_proj")
        attn["o"] = {"kernel": out["kernel"].reshape(heads, -1, width), "bias": out["bias"]}
        mlp = {"up": linear(f"{at}.mlp.c_fc"), "down": linear(f"{at}.mlp.c_proj")}
        blocks[str(i)] = {
            "attn_norm": norm(f"{at}.ln_1"), "mlp_norm": norm(f"{at}.ln_2"), "attn": attn, "mlp": mlp,
        }  # fmt: skip
    embed = {
        "tokens": {"embedding": weights["wte.weight"]},
        "positions": {"embedding": weights["wpe.weight"]},
    }
    params = {"embed": embed, "blocks": blocks, "norm": norm("ln_f")}
    return build(o), {"params": jax.tree.map(jnp.asarray, params)}


RUNS = {
    "greedy": {},
    "greedy_rep1_3": {"repetition_penalty": 1.3},
    "greedy_norepeat2": {"no_repeat_ngram": 2},
    "beam3": {"num_beams": 3},
    "beam3_lp0": {"num_beams": 3, "length_penalty": 0.0},
}


@pytest.mark.parametrize("name", RUNS)
def test_golden_batched_and_single(tiny, name):
    settings = Settings(max_new_tokens=8, eos=(GOLDEN["eos"],), pad=GOLDEN["pad"], **RUNS[name])
    tokens, mask = prompts.left_pad(GOLDEN["prompts"], GOLDEN["pad"])
    out = generate(*tiny, tokens, mask, settings)
    want = GOLDEN["outputs"][f"{name}_batched"]
    assert out.cropped()[:, out.prompt :].tolist() == want["new_tokens"]
    if want["scores"] is not None:
        np.testing.assert_allclose(out.sequences_scores, want["scores"], rtol=1e-5)
    for prompt, single in zip(GOLDEN["prompts"], GOLDEN["outputs"][f"{name}_single"], strict=True):
        alone = generate(*tiny, *prompts.left_pad([prompt], multiple=5), settings)
        assert alone.new()[0].tolist() == single


def test_golden_logits(tiny):
    model, variables = tiny
    batch = GOLDEN["outputs"]["left_padded"]
    for prompt, want in zip(GOLDEN["prompts"], GOLDEN["outputs"]["logits_single"], strict=True):
        got = model.apply(variables, {"tokens": jnp.asarray([prompt])})["logits"]
        np.testing.assert_allclose(got[0], want, atol=2e-5)
    step = Step(model)
    tokens = jnp.asarray(batch["input_ids"])
    last, _ = step(variables, tokens, jnp.asarray(batch["attention_mask"]), step.cache(3, 5))
    np.testing.assert_allclose(last, batch["last_logits"], atol=2e-5)
    wrong = np.array(GOLDEN["outputs"]["left_padded_WRONG_positions_last_logits"])
    assert np.abs(np.asarray(last) - wrong).max() > 1


def test_golden_log_probs(tiny):
    echo = GOLDEN["outputs"]["echo_logprobs"]
    model, variables = tiny
    (ids,) = echo["ids"]
    for length in range(1, len(ids)):
        settings = Settings(max_new_tokens=1, forced_first=ids[length], top_log_probs=1)
        out = generate(model, variables, [ids[:length]], None, settings)
        np.testing.assert_allclose(out.log_probs[0, 0], echo["token_logprobs"][length], atol=2e-5)
        np.testing.assert_allclose(out.top[0][0, 0, 0], echo["top1"][length], atol=2e-5)
        assert out.sample_log_probs[0, 0] == 0


@pytest.mark.parametrize("name", FORMS)
def test_every_step_has_the_logits_of_a_full_pass(name):
    """Also beyond the banded layers' window, for grouped heads, experts, and under left padding."""
    model, variables = make(name)
    tokens, mask = prompts.left_pad(ragged())
    out = generate(model, variables, tokens, mask, Settings(max_new_tokens=9, scores=True))
    whole = np.stack(
        [
            np.pad(ids + new.tolist(), (0, 7 - len(ids)))
            for ids, new in zip(ragged(), out.new(), strict=True)
        ]
    )
    every = model.apply(variables, {"tokens": jnp.asarray(whole)})["logits"]
    for row, ids in enumerate(ragged()):
        logits = every[row, : len(ids) + 9]
        full = logits[len(ids) - 1 : -1]
        np.testing.assert_allclose(out.scores[:, row], full, atol=3e-5)
        chosen = jax.nn.log_softmax(full)[jnp.arange(9), out.new()[row]]
        np.testing.assert_allclose(out.log_probs[row], chosen, atol=3e-5)
        assert (full.argmax(-1) == out.new()[row]).all()


SAMPLED = Settings(
    max_new_tokens=8, temperature=1.3, top_k=9, top_p=0.95, eos=(3,), repetition_penalty=1.1
)


def test_rows_depend_on_nothing_but_their_prompt_and_seed():
    model, variables = make("gpt2")
    tokens, mask = prompts.left_pad(ragged())
    batch = generate(model, variables, tokens, mask, SAMPLED, seeds=[7, 8, 9])
    again = generate(model, variables, tokens, mask, SAMPLED, seeds=[7, 8, 9])
    np.testing.assert_array_equal(batch.sequences, again.sequences)
    for row, ids in enumerate(ragged()):
        for multiple in (7, 16):
            one, real = prompts.left_pad([ids], 5, multiple)
            alone = generate(model, variables, one, real, SAMPLED, seeds=[7 + row])
            assert alone.new()[0].tolist() == batch.new()[row].tolist()
    other = generate(model, variables, tokens, mask, SAMPLED, seeds=[7, 18, 9])
    assert other.new()[0].tolist() == batch.new()[0].tolist()
    assert other.new()[1].tolist() != batch.new()[1].tolist()


def test_what_stands_in_padding_changes_nothing():
    model, variables = make("llama")
    tokens, mask = prompts.left_pad(ragged())
    settings = dataclasses.replace(SAMPLED, no_repeat_ngram=2)
    one = generate(model, variables, tokens, mask, settings, key=jax.random.key(0))
    noisy = np.where(mask, tokens, 11)
    two = generate(model, variables, noisy, mask, settings, key=jax.random.key(0))
    assert [n.tolist() for n in one.new()] == [n.tolist() for n in two.new()]
    np.testing.assert_allclose(one.log_probs, two.log_probs, atol=1e-6)


def test_copies_of_a_row():
    model, variables = make("gpt2")
    tokens, mask = prompts.left_pad(ragged(2))
    three = dataclasses.replace(SAMPLED, num_return_sequences=3)
    out = generate(model, variables, tokens, mask, three, seeds=[1, 2])
    one = generate(model, variables, tokens, mask, SAMPLED, seeds=[1, 2])
    assert out.sequences.shape == (6, 7 - 2 + 8)
    assert [out.new()[i].tolist() for i in (0, 3)] == [new.tolist() for new in one.new()]
    assert len({tuple(new.tolist()) for new in out.new()[:3]}) > 1


def test_samples_follow_the_distribution():
    """20,000 rows of one prompt against the filtered softmax."""
    table = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]]))
    step = lambda params, tokens, mask, cache: (jnp.repeat(params, len(tokens), 0), cache)  # noqa: E731
    settings = Settings(max_new_tokens=1, temperature=1.0, top_k=3, num_return_sequences=20000)
    keys = prompts.row_keys(1, settings, seeds=[3])
    one = jnp.ones((1, 1), jnp.int32)
    out = generation.decode(step, table, {}, one, one, keys, settings, lambda cache, rows: cache)
    share = np.bincount(np.asarray(out.sequences)[:, 1], minlength=4) / 20000
    np.testing.assert_allclose(share, np.array([4, 3, 2, 0]) / 9, atol=0.015)
    np.testing.assert_allclose(
        np.exp(out.sample_log_probs[:, 0]),
        np.array([4, 3, 2, 0])[out.sequences[:, 1]] / 9,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        np.exp(out.log_probs[:, 0]), np.array([0.4, 0.3, 0.2, 0.1])[out.sequences[:, 1]], rtol=1e-5
    )


def test_bans_come_before_the_filters():
    """Behind top_k=1 a banned end would leave nothing to draw."""
    table = jnp.log(jnp.asarray([[0.6, 0.4]]))
    step = lambda params, tokens, mask, cache: (jnp.repeat(params, len(tokens), 0), cache)  # noqa: E731
    settings = Settings(max_new_tokens=1, temperature=0.5, top_k=1, eos=(0,), min_new_tokens=1)
    keys = prompts.row_keys(1, settings, seeds=[3])
    one = jnp.ones((1, 1), jnp.int32)
    out = generation.decode(step, table, {}, one, one, keys, settings, lambda cache, rows: cache)
    assert out.sequences.tolist() == [[1, 1]] and float(out.sample_log_probs[0, 0]) == 0


def test_eos_counts_and_pad_follows():
    model, variables = make("gpt2")
    tokens, mask = prompts.left_pad(ragged())
    free = generate(model, variables, tokens, mask, Settings(max_new_tokens=9))
    assert free.finish == ["length"] * 3 and free.lengths.tolist() == [9] * 3
    eos = (int(free.new()[0][3]), int(free.new()[1][5]))
    out = generate(model, variables, tokens, mask, Settings(max_new_tokens=9, eos=eos, pad=22))
    for row in range(3):
        whole = free.new()[row].tolist()
        end = min((whole.index(e) + 1 for e in eos if e in whole), default=9)
        assert out.lengths[row] == end
        assert out.finish[row] == ("stop" if set(eos) & set(whole) else "length")
        new = np.asarray(out.sequences)[row, out.prompt :].tolist()
        assert new == whole[:end] + [22] * (9 - end)
        assert not np.asarray(out.log_probs)[row, end:].any()
    assert out.steps == out.lengths.max()
    least = Settings(max_new_tokens=9, eos=eos, min_new_tokens=7, pad=22)
    assert (generate(model, variables, tokens, mask, least).lengths >= 8).all()


def test_scanned_gives_the_same_sequences():
    model, variables = make("gpt3")
    tokens, mask = prompts.left_pad(ragged())
    want = generate(model, variables, tokens, mask, SAMPLED, seeds=[1, 2, 3])
    scanned = build(model.o.replace(scan=True))
    stacked = {"params": stack(variables["params"])}
    got = generate(scanned, stacked, tokens, mask, SAMPLED, seeds=[1, 2, 3])
    np.testing.assert_array_equal(got.sequences, want.sequences)
    beams = Settings(max_new_tokens=6, num_beams=3, eos=(3,))
    np.testing.assert_array_equal(
        generate(scanned, stacked, tokens, mask, beams).sequences,
        generate(model, variables, tokens, mask, beams).sequences,
    )
    back = generation.apart(scanned, stacked)
    assert back[0] == model
    jax.tree.map(np.testing.assert_array_equal, back[1], variables)
    assert generation.apart(model, variables)[1] is variables


@pytest.mark.parametrize("name", ["gpt3", "moe"])
def test_beams_of_a_row_do_not_depend_on_the_others(name):
    model, variables = make(name)
    tokens, mask = prompts.left_pad(ragged())
    settings = Settings(
        max_new_tokens=7, num_beams=3, num_return_sequences=2, eos=(3, 5), length_penalty=0.6
    )
    batch = generate(model, variables, tokens, mask, settings)
    for row, ids in enumerate(ragged()):
        alone = generate(model, variables, *prompts.left_pad([ids], multiple=7), settings)
        for copy in range(2):
            assert alone.new()[copy].tolist() == batch.new()[2 * row + copy].tolist()
        both = alone.sequences_scores, batch.sequences_scores[2 * row : 2 * row + 2]
        np.testing.assert_allclose(*both, atol=1e-5)
        total = alone.sample_log_probs.sum(1) / alone.lengths**0.6
        np.testing.assert_allclose(total, alone.sequences_scores, atol=1e-5)


def test_beam_sampling_is_reproducible():
    model, variables = make("gpt2")
    tokens, mask = prompts.left_pad(ragged())
    settings = Settings(max_new_tokens=6, num_beams=3, temperature=1.0, top_p=0.9)
    draws = [
        generate(model, variables, tokens, mask, settings, seeds=[s, s, s]).sequences.tolist()
        for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_what_does_not_fit_is_said():
    model, variables = make("gpt2")
    call = lambda tokens, mask=None, **s: generate(model, variables, tokens, mask, Settings(**s))  # noqa: E731
    with pytest.raises(ValueError, match="context of 48"):
        call([[1] * 45], max_new_tokens=4)
    assert call([[1] * 45], max_new_tokens=3).lengths == 3
    tokens, mask = prompts.left_pad([[1] * 40], multiple=64, most=48)
    assert tokens.shape == (1, 48)
    assert call(tokens, mask, max_new_tokens=8).lengths == 8
    with pytest.raises(ValueError, match="left"):
        call([[1, 2]], [[1, 0]], max_new_tokens=2)
    with pytest.raises(ValueError, match="vocabulary of 23"):
        call([[1, 23]], max_new_tokens=2)
    with pytest.raises(ValueError, match="vocabulary of 23"):
        call([[1]], max_new_tokens=2, eos=(99,))
    for name, value in {"suppress": (-1,), "eos": (2, -1), "forced_first": 23, "pad": 23}.items():
        with pytest.raises(ValueError, match=r"names token (-1|23), outside"):
            call([[1]], max_new_tokens=2, **{name: value})
    with pytest.raises(ValueError, match="top_log_probs=24"):
        call([[1]], max_new_tokens=2, top_log_probs=24)
    with pytest.raises(ValueError, match="float64; expected whole"):
        call([[1.7]], max_new_tokens=2)
    with pytest.raises(ValueError, match="seeds"):
        call([[1]], max_new_tokens=2, temperature=1.0)
    with pytest.raises(ValueError, match="empty"):
        prompts.left_pad([[1], []])
    judge = build(Options.of(families.row("gpt2", **SMALL, head="classify", labels=2)))
    with pytest.raises(ValueError, match="a classifier .*writes no text"):
        generate(judge, {}, [[1]], None, Settings(max_new_tokens=2))
    with pytest.raises(ValueError, match="expected 1 integers"):
        generate(model, variables, [[1]], None, SAMPLED, seeds=[1, 2])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_nothing_is_left_to_draw_the_row_is_named(temperature):
    model, variables = make("gpt2")
    s = Settings(max_new_tokens=24, temperature=temperature, no_repeat_ngram=1)
    again = lambda variables, **s_: generate(
        model, variables, [[1]], None, dataclasses.replace(s, **s_), [0]
    )  # noqa: E731
    assert len(set(again(variables, max_new_tokens=22).new()[0].tolist())) == 22, "each token once"
    with pytest.raises(ValueError, match="row 0, new token 23: no token is left"):
        again(variables)
    with pytest.raises(ValueError, match="row 0, new token 1: no token is left"):
        again(variables, suppress=tuple(range(23)))
    broken = jax.tree.map(lambda x: x * np.nan, variables)
    with pytest.raises(ValueError, match="row 0, new token 1: the model's logits are not finite"):
        again(broken, max_new_tokens=2)
    stream = streaming.stream(model, variables, [[1]], None, s, str, [0])
    with pytest.raises(ValueError, match="new token 23: no token is left"):
        list(stream)
