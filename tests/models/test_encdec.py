"""What must be true of every encoder-decoder: causality, padding, two forms, caches, maps, decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import beam, cache, families, positions, prompts, sides, streaming, transformer
from models import generate as generation
from models.build import build, example
from models.options import Options
from models.settings import Settings
from models.step import Step
from tests.models import tiny

SHAPES = {
    "transformer": ("base", {}),
    "t5": ("1.1-small", {"head_size": 6, "buckets": 6, "distance": 7}),
    "bart": ("base", {"position_offset": 2}),
}
every = pytest.mark.parametrize("name", sorted(SHAPES))
SOURCE, TIME = 9, 7


def options(name, **changes):
    size, own = SHAPES[name]
    shape = dict(layers=2, width=24, heads=4, ff=40, vocab=53, context=32, encoder_layers=3)
    own = {**shape, **own, "encoder_ff": 32, "drop_attn": 0.0, "start": 1, **changes}
    return Options.of(families.row(name, size, **own))


@functools.cache
def model(name, **changes):
    """(options, module, variables) with weights that differ enough for errors to show."""
    o = options(name, **changes)
    module = build(o)
    variables = jax.jit(module.init)(jax.random.key(0), example(o, 2, TIME))
    grow = 1.0 if name == "t5" else 5.0 if name == "bart" else 2.0
    return o, module, jax.tree.map(lambda w: w * grow if w.ndim > 1 else w, variables)


def ids(batch=2, time=SOURCE, seed=1):
    return jax.random.randint(jax.random.key(seed), (batch, time), 3, 53)


def pair(batch=2):
    return {"tokens": ids(batch), "decoder_tokens": ids(batch, TIME, 2)}


def features(module, variables, batch):
    return tiny.apply(module)(variables, batch, method="features")[0]


@every
def test_a_target_sees_the_whole_source_and_its_own_past(name):
    _, module, variables = model(name)
    given = pair(1)
    base = features(module, variables, given)
    changed = given["decoder_tokens"].at[0, 3].set(7)
    moved = jnp.abs(features(module, variables, {**given, "decoder_tokens": changed}) - base)
    assert float(moved[0, :3].max()) == 0.0
    assert float(moved[0, 3:].max(-1).min()) > 1e-6
    for slot in (0, SOURCE - 1):
        changed = given["tokens"].at[0, slot].set(7)
        moved = jnp.abs(features(module, variables, {**given, "tokens": changed}) - base)
        assert float(moved[0].max(-1).min()) > 1e-6


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_source_and_target_changes_nothing(name, side):
    _, module, variables = model(name)
    given = pair()
    want = features(module, variables, given)
    order = 1 if side == "right" else -1
    join = lambda a, b: jnp.concatenate([a, b][::order], 1)
    pad = jnp.zeros((2, 4), jnp.int32)
    batch = {
        "tokens": join(given["tokens"], pad),
        "mask": join(jnp.ones_like(given["tokens"]), pad),
        "decoder_tokens": join(given["decoder_tokens"], pad),
        "decoder_mask": join(jnp.ones_like(given["decoder_tokens"]), pad),
    }
    got = features(module, variables, batch)
    assert tiny.close(got[:, :TIME] if side == "right" else got[:, 4:], want)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_both_forms_give_the_same_numbers_and_gradients(name):
    o, module, variables = model(name)
    scanned = build(o.replace(scan=True))
    stacked = {"params": transformer.stack(variables["params"])}
    shapes = jax.eval_shape(scanned.init, jax.random.key(0), pair())
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)

    def loss(module, variables, key):
        x, _ = module.apply(variables, pair(), method="features", rngs={"dropout": key})
        return jnp.sum(x**2)

    key = jax.random.key(3)
    one = jax.jit(jax.value_and_grad(functools.partial(loss, module)))(variables, key)
    two = jax.jit(jax.value_and_grad(functools.partial(loss, scanned)))(stacked, key)
    assert tiny.close(one[0] / one[0], two[0] / one[0])
    again = transformer.unstack(two[1]["params"])
    for a, b in zip(jax.tree.leaves(one[1]["params"]), jax.tree.leaves(again), strict=True):
        assert tiny.close(b, a, 1e-4)


@every
@pytest.mark.parametrize("scan", [False, True])
def test_incremental_decoding_is_teacher_forcing(name, scan):
    """The source is read once: later steps are given neither it nor its states."""
    o, module, variables = model(name)
    given = pair()
    mask = jnp.ones((2, SOURCE), jnp.int32).at[0, -3:].set(0)
    want = features(module, variables, {**given, "mask": mask})
    if scan:
        module, o = build(o.replace(scan=True)), o.replace(scan=True)
        variables = {"params": transformer.stack(variables["params"])}
    memory = cache.init(o, 2, TIME, source=SOURCE)
    batch, got = {"tokens": given["tokens"], "mask": mask}, []
    for part in jnp.split(given["decoder_tokens"], [3, *range(4, TIME)], 1):
        x, out = tiny.apply(module)(
            variables, {**batch, "decoder_tokens": part}, cache=memory, method="features"
        )
        memory, batch = out["cache"], {}
        got.append(x)
    assert tiny.close(jnp.concatenate(got, 1), want)


@every
def test_maps_of_three_kinds_cost_nothing_unless_asked_for(name):
    o, module, variables = model(name)
    given = {**pair(), "mask": jnp.ones((2, SOURCE), jnp.int32).at[0, -3:].set(0)}
    _, made = tiny.apply(module)(variables, given, mutable=("maps", "hidden"))
    maps, size = made["maps"], (2, o.heads)
    assert maps["encoder"]["attn"].shape == (3, *size, SOURCE, SOURCE)
    assert maps["decoder"]["attn"].shape == (2, *size, TIME, TIME)
    assert maps["decoder"]["cross"].shape == (2, *size, TIME, SOURCE)
    for weights in jax.tree.leaves(maps):
        assert tiny.close(weights.sum(-1), jnp.ones(weights.shape[:-1]))
    assert float(maps["decoder"]["cross"][:, 0, ..., -3:].max()) == 0.0
    assert made["hidden"]["encoder"]["blocks"].shape == (4, 2, SOURCE, o.width)
    assert made["hidden"]["decoder"]["blocks"].shape == (3, 2, TIME, o.width)
    _, plain = tiny.apply(module)(variables, given, mutable=("stats",))
    assert not jax.tree.leaves(plain)


@pytest.mark.parametrize("rate", ["embed", "attn", "resid", "act", "final"])
def test_every_dropout_site_drops(rate):
    """With one rate on, another key gives other numbers; without a key none does."""
    one = dict(layers=1, encoder_layers=1)
    _, plain, variables = model("t5", **one)
    rates = {**dict.fromkeys(sides.RATES, 0.0), f"drop_{rate}": 0.3}
    module = build(options("t5", **{**one, **rates}))
    run = jax.jit(lambda key: module.apply(variables, pair(), method="features", rngs=key)[0])
    given = {"dropout": jax.random.key(0)}, {"dropout": jax.random.key(1)}
    assert float(jnp.abs(run(given[0]) - run(given[1])).max()) > 1e-4
    assert float(jnp.abs(run({}) - features(plain, variables, pair())).max()) < 1e-4


def decode(module, variables, s, tokens, mask, reorder=None, search=False):
    """(tokens, scores) of generation with a given `reorder`, or of a beam search with one beam."""

    @jax.jit
    def run(variables, tokens, mask):
        step, source = Step(module), {"tokens": tokens, "mask": mask}
        first = jnp.full((len(tokens), 1), module.o.start)
        memory = step.cache(len(tokens), 1 + s.max_new_tokens, variables, source)
        args = (step, variables, memory, first, jnp.ones_like(first), None, s)
        if search:
            found = beam.search(*args, cache.among)
            return found["sequences"], found["sequences_scores"]
        found = generation.decode(*args, reorder)
        return found.sequences, found.sequences_scores

    return run(variables, tokens, mask)


@every
def test_greedy_decoding_is_the_argmax_of_teacher_forcing(name):
    o, module, variables = model(name)
    found = generation.generate(module, variables, ids(), settings=Settings(max_new_tokens=6))
    assert bool((found.sequences[:, 0] == o.start).all())
    batch = {"tokens": ids(), "decoder_tokens": found.sequences[:, :-1]}
    logits = tiny.apply(module)(variables, batch)["logits"]
    assert np.array_equal(jnp.argmax(logits, -1), found.sequences[:, 1:])
    log_probs = jnp.max(jax.nn.log_softmax(logits), -1)
    assert tiny.close(found.log_probs, log_probs)


@pytest.mark.parametrize("name", ["bart", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_beam_of_one_is_greedy_and_padding_of_the_source_is_nothing(name):
    _, module, variables = model(name)
    s, mask = Settings(max_new_tokens=6, eos=(4,)), jnp.ones((2, SOURCE), jnp.int32)
    greedy, _ = decode(module, variables, s, ids(), mask)
    single, _ = decode(module, variables, s, ids(), mask, search=True)
    assert np.array_equal(greedy, single)
    wide = Settings(max_new_tokens=6, eos=(4,), num_beams=3, num_return_sequences=2)
    want, scores = decode(module, variables, wide, ids(), mask)
    extra = jnp.zeros((2, 4), jnp.int32)
    tokens, mask = (jnp.concatenate([a, extra], 1) for a in (ids(), mask))
    got, others = decode(module, variables, wide, tokens, mask)
    assert np.array_equal(got, want) and tiny.close(others, scores)
    copied, others = decode(module, variables, wide, tokens, mask, cache.reorder)
    assert np.array_equal(copied, want) and tiny.close(others, scores)


def test_beams_find_what_a_search_through_all_targets_finds():
    """With as many beams as prefixes the search is exhaustive: three tokens of five, no EOS."""
    _, module, variables = model("transformer", vocab=5, start=1)
    source = jnp.asarray([[3, 4, 2, 3]])
    s = Settings(max_new_tokens=3, num_beams=25)
    found = generation.generate(module, variables, source, settings=s)
    every = jnp.stack(jnp.meshgrid(*[jnp.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    fed = jnp.concatenate([jnp.full((125, 1), 1), every[:, :-1]], 1)
    batch = {"tokens": jnp.repeat(source, 125, 0), "decoder_tokens": fed}
    logits = tiny.apply(module)(variables, batch)["logits"]
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), every[..., None], -1).sum((1, 2))
    best = int(jnp.argmax(picked))
    assert found.sequences[0, 1:].tolist() == every[best].tolist()
    assert tiny.close(found.sequences_scores[0], picked[best] / 3)


def test_maps_of_beams_that_share_a_source_come_by_row():
    o, module, variables = model("bart")
    target = ids(6, TIME, 2)
    whole = {"tokens": jnp.repeat(ids(), 3, 0), "decoder_tokens": target}
    encoded = module.apply(variables, {"tokens": ids()}, method="encode")
    shared = {"encoded": encoded, "decoder_tokens": target}
    want, made = tiny.apply(module)(variables, whole, mutable=("maps",))
    got, mine = tiny.apply(module)(variables, shared, mutable=("maps",))
    assert tiny.close(got["logits"], want["logits"])
    assert tiny.close(mine["maps"]["decoder"]["cross"], made["maps"]["decoder"]["cross"])


@pytest.mark.parametrize("causal", [True, False])
def test_the_relative_bias_is_the_table_at_each_distance(causal):
    """T5's buckets for 8 of distances up to 20, by hand from section 2.1's rule."""
    o = options("t5", buckets=8, distance=20, heads=4)
    o = o if causal else sides.encoder(o)
    module = positions.Relative(o)
    table = jax.random.normal(jax.random.key(0), (8, 4))
    bias = module.apply({"params": {"embedding": table}}, 6, 30)
    near = {0: 0, -1: 1, -2: 2, -3: 3} if causal else {0: 0, -1: 1, 1: 5}
    far = {1: 0, 24: 0} if causal else {-5: 2, 5: 6, 24: 7}
    for distance, bucket in {**near, **far}.items():
        query = max(0, -distance)
        assert np.array_equal(bias[0, :, query, query + distance], table[bucket])
    for start in (0, 4):
        one = module.apply({"params": {"embedding": table}}, 2, 30, jnp.int32(start))
        assert np.array_equal(one[0], bias[0, :, start : start + 2])


def test_halves_hold_the_paper_s_sinusoids_in_another_order():
    where = jnp.arange(40)[None]
    paper, halves = (positions.sinusoid(where, 16, halves) for halves in (False, True))
    angles = np.arange(40)[:, None] / 10000 ** (np.arange(0, 16, 2) / 16)
    assert tiny.close(paper[0, :, 0::2], np.sin(angles), 1e-5)
    assert tiny.close(paper[0, :, 1::2], np.cos(angles), 1e-5)
    assert np.array_equal(halves, jnp.concatenate([paper[..., 0::2], paper[..., 1::2]], -1))


def test_initial_deviations_are_mesh_tensorflow_s_and_glorot_s():
    wide = dict(width=96, heads=4, head_size=12, ff=200, encoder_ff=0, vocab=300, layers=1)
    stds = {}
    for name in ("t5", "transformer"):
        o = options(name, **wide)
        params = jax.jit(build(o).init)(jax.random.key(0), example(o))["params"]
        block = params["decoder"]["blocks"]["0"]
        stds[name] = {
            **{k: float(block["cross"][k]["kernel"].std()) for k in "qkvo"},
            **{k: float(block["mlp"][k]["kernel"].std()) for k in ("up", "down")},
            "tokens": float(params["embed"]["tokens"]["embedding"].std()),
        }
    want = {"q": (96 * 12) ** -0.5, "k": 96**-0.5, "v": 96**-0.5, "o": 48**-0.5}
    want = {**want, "up": 96**-0.5, "down": 200**-0.5, "tokens": 1.0}
    glorot = {**dict.fromkeys("qkvo", (2 / 144) ** 0.5), "tokens": 96**-0.5}
    glorot = {**glorot, **dict.fromkeys(("up", "down"), (2 / 296) ** 0.5)}
    for name, expected in (("t5", want), ("transformer", glorot)):
        for role, std in expected.items():
            assert abs(stds[name][role] / std - 1) < 0.06, (name, role)


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(causal=False), ("causal", "encdec")),
        (dict(encoder_layers=-1), ("encoder_layers", "-1")),
        (dict(experts=2), ("experts",)),
        (dict(start=60), ("start=60", "53")),
        (dict(encoder_heads=5), ("encoder_heads=5", "24")),
        (dict(buckets=2), ("buckets", "4")),
        (dict(distance=3), ("distance=3", "buckets=6")),
        (dict(head="masked"), ("masked", "encdec", "lm")),
        (dict(kind="decoder"), ("encoder_layers=3", "encdec")),
    ],
)
def test_wrong_options_are_named(change, words):
    with pytest.raises(ValueError) as error:
        options("t5", **{"head_size": 0 if "encoder_heads" in change else 6, **change})
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "batch,words",
    [
        ({"tokens": ids()}, "decoder_tokens"),
        ({"decoder_tokens": ids()}, "tokens"),
        ({**pair(), "segments": ids()}, "segments"),
    ],
)
def test_a_batch_that_lacks_or_repeats_something_is_named(batch, words):
    _, module, variables = model("bart")
    with pytest.raises(ValueError, match=words):
        module.apply(variables, batch, method="features")


@pytest.mark.parametrize(
    "tokens,prompt,words",
    [
        (np.full((2, 3), 99), None, "99.*encoder"),
        (np.zeros((2, 3), int), np.ones((3, 1), int), "3 rows"),
        (np.zeros((2, 0), int), None, r"\[B,S\]"),
        ([[1, 2], [3]], None, "tokens has rows of different lengths"),
        (np.zeros((2, 3), int), [[1, 2], [3]], "prompt has rows of different lengths"),
        (np.zeros((2, 3), int), [1, 2], r"prompt is \(2,\); expected \[B,T\]"),
        (np.full((2, 3), -1), None, "-1.*encoder"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(tokens, prompt, words):
    _, module, variables = model("bart")
    with pytest.raises(ValueError, match=words):
        generation.generate(module, variables, tokens, prompt=prompt)


def test_what_a_source_s_mask_hides_may_be_any_number():
    o, _, _ = model("bart")
    read = prompts.source(o, [[4, 5, -100], [6, -1, 99]], [[1, 1, 0], [1, 0, 0]])
    assert read["tokens"].tolist() == [[4, 5, 0], [6, 0, 0]]


def test_streamed_is_generated_and_a_prompt_begins_the_target():
    o, module, variables = model("bart")
    s, prompt = Settings(max_new_tokens=4), ids(2, 2, 5)
    whole = generation.generate(module, variables, ids(), settings=s, prompt=prompt)
    letters = lambda row: "".join(chr(97 + int(t) % 26) for t in row)
    pieces = streaming.stream(module, variables, ids(), settings=s, decode=letters, prompt=prompt)
    while True:
        try:
            next(pieces)
        except StopIteration as ended:
            streamed = ended.value
            break
    assert np.array_equal(streamed.sequences, whole.sequences)
    assert np.array_equal(whole.sequences[:, :2], prompt) and whole.prompt == 2


def test_classifying_heads_read_the_last_real_token_and_every_token():
    o, module, variables = model("bart", head="classify", labels=3)
    mask = jnp.ones((2, SOURCE), jnp.int32).at[0, -3:].set(0)
    alone = tiny.apply(module)(variables, {"tokens": ids()[:1, :-3]})["scores"]
    both = tiny.apply(module)(variables, {"tokens": ids(), "mask": mask})["scores"]
    assert both.shape == (2, 3) and tiny.close(both[:1], alone)
    _, module, variables = model("bart", head="spans")
    assert tiny.apply(module)(variables, {"tokens": ids()})["scores"].shape == (2, SOURCE, 2)
    with pytest.raises(ValueError, match="spans"):
        module.apply(variables, jnp.zeros((2, o.width)), method="logits")
