"""The matrix product: kernels on the left for a few rows, bfloat16 where the processor has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import families, generate, placement, products
from models.build import build, example
from models.options import Options
from models.settings import Settings
from models.step import Again, Step, turned
from tests.models import tiny

MANY = Settings(max_new_tokens=8)
ENCDEC = dict(vocab=61, context=32, layers=2, width=16, heads=4, ff=32)


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(placement, "_has_bfloat16", lambda: False)
    jax.clear_caches()
    yield
    jax.clear_caches()


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("rows", [(1, 2), (3, 1), (8, 8), (5, 13)])
def test_a_table_on_the_left_gives_the_plain_product(rows):
    x, table = normal(*rows, 24), normal(37, 24, seed=1)
    found = jax.jit(lambda x, t: products.product("abu,vu->abv", x, t, "float32"))(x, table)
    np.testing.assert_allclose(found, np.asarray(x) @ np.asarray(table).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "rows, columns", [(700, 800), (32, 2**15), (33, 2**14), (1024, 768), (31, 2**15), (48, 16)]
)
def test_a_kernel_is_transposed_exactly_whatever_slabs_it_has(rows, columns):
    x = normal(rows, columns)
    found = jax.jit(products.transposed)(x)
    np.testing.assert_array_equal(found, np.asarray(x).T.reshape(-1))


def test_a_large_kernel_is_transposed_in_slabs_unless_its_rows_are_a_power_of_two():
    told = lambda *shape: (
        "dynamic_update_slice" in str(jax.make_jaxpr(products.transposed)(jnp.zeros(shape)))
    )
    assert told(768, 3072) and told(700, 800)
    assert not told(1024, 3072) and not told(700, 16) and not told(31, 2**15)
    with jax.set_mesh(jax.make_mesh((2,), ("data",))):
        assert not told(768, 3072)


def test_few_rows_are_more_than_one_and_at_most_64_of_float32_on_one_cpu():
    found = [n for n in (0, 1, 2, 64, 65) if products.few(n, "float32")]
    assert found == [2, 64]
    assert not products.few(2, "float64")
    with jax.set_mesh(jax.make_mesh((2,), ("data",))):
        assert not products.few(2, "float32")


def setup(name, **changes):
    """(step, variables, prompts [3,5], their mask, source or None)."""
    if name in ("t5", "bart", "transformer"):
        o = Options.of(families.row(name, **ENCDEC, **changes))
        module = build(o)
        variables = module.init(jax.random.key(0), example(o))
        ids = jax.random.randint(jax.random.key(2), (3, 5), 3, 61)
        source = {"tokens": ids, "mask": jnp.ones_like(ids)}
    else:
        o, module, variables = tiny.model(name, **changes)
        source = None
    prompt = jax.random.randint(jax.random.key(1), (3, 5), 3, 61)
    return Step(module), variables, prompt, source


def two_steps(step, variables, prompt, source, settings, spoil=1.0):
    """Logits of the prompt and of a token after it, and the kernels that were turned."""

    def run(variables, prompt):
        cache = step.cache(len(prompt), 16, variables, source, settings)
        first, cache = step(variables, prompt, jnp.ones_like(prompt), cache)
        turned = jax.tree.map(lambda x: x * spoil, cache.get(products.TURNED))
        cache = cache if turned is None else {**cache, products.TURNED: turned}
        last = jnp.argmax(first, -1)[:, None]
        return first, step(variables, last, jnp.ones_like(last), cache)[0], turned

    return jax.jit(run)(variables, prompt)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2", {}), ("llama", {}), ("moe", {}), ("gpt2", {"tied": False}), ("t5", {}), ("bart", {}),
        ("transformer", {"dtype": "bfloat16", "stream": "float32"}),
    ],
)  # fmt: skip
def test_steps_with_turned_kernels_give_the_same_logits(name, changes, without_bfloat16):
    given = setup(name, **changes)
    plain, other = (two_steps(*given, settings) for settings in (None, MANY))
    for a, b in zip(plain[:2], other[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(a).max()))
    assert plain[2] is None
    kernels = [jax.tree_util.keystr(k) for k, _ in jax.tree_util.tree_leaves_with_path(other[2])]
    parts = ["['o']['kernel']", "['down']['kernel']"] + ["head"] * (changes.get("tied") is False)
    parts = parts if name != "moe" else parts[:1]
    for part in parts:
        assert any(part in key for key in kernels), (part, kernels)
    spoilt = two_steps(*given, MANY, spoil=0.5)
    assert float(jnp.abs(spoilt[1] - other[1]).max()) > 1e-3, "the later step does not use them"


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_kernels_may_be_turned_once_for_many_calls(name):
    step, variables, prompt, _ = setup(name)
    ready = turned(step.model, variables)
    assert turned(*generate.apart(step.model, variables)).keys() == ready.keys()
    settings = Settings(max_new_tokens=9, num_beams=3)
    run = lambda variables: generate.generate(step.model, variables, prompt, None, settings)
    np.testing.assert_array_equal(run(ready).sequences, run(variables).sequences)
    zeros = jax.tree.map(jnp.zeros_like, ready[products.TURNED])
    spoilt = run({**variables, products.TURNED: zeros})
    assert not np.array_equal(spoilt.sequences, run(variables).sequences), "they are not used"
    one = Settings(max_new_tokens=9)
    run = lambda variables: generate.generate(step.model, variables, prompt[:1], None, one)
    np.testing.assert_array_equal(run(ready).sequences, run(variables).sequences)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2", {"tied": False}), ("moe", {}), ("t5", {}),
        ("transformer", {"dtype": "bfloat16", "stream": "float32"}),
    ],
)  # fmt: skip
def test_kernels_may_stand_turned_alone(name, changes, without_bfloat16):
    step, variables, prompt, _ = setup(name, **changes)
    alone = turned(step.model, variables, instead=True)
    sizes = [sum(x.size for x in jax.tree.leaves(v)) for v in (variables, alone)]
    assert sizes[0] == sizes[1] and alone[products.TURNED], "each kernel stands there once"
    long = jnp.tile(prompt, (8, 3))  # 360 rows at once: more than a few, and then 48
    for given, beams in ((prompt[:1], 1), (long, 2)):
        settings = Settings(max_new_tokens=9, num_beams=beams)
        run = lambda variables: generate.generate(step.model, variables, given, None, settings)
        a, b = run(variables), run(alone)
        np.testing.assert_array_equal(a.sequences, b.sequences)
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)
    again = turned(step.model, alone, instead=True)
    assert jax.tree.structure(again) == jax.tree.structure(alone)


def test_kernels_of_changing_parameters_are_turned_in_the_same_memory():
    step, variables, prompt, _ = setup("gpt2")
    settings, again = Settings(max_new_tokens=9), Again(step.model)
    run = lambda v: generate.generate(step.model, v, prompt, None, settings).sequences
    other = jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), variables
    )
    ready = again(variables, len(prompt), settings)
    np.testing.assert_array_equal(run(ready), run(variables))
    held = jax.tree.leaves(ready[products.TURNED])
    places = [x.unsafe_buffer_pointer() for x in held]
    later = again(other, len(prompt), settings)
    assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(later[products.TURNED])] == places
    assert all(x.is_deleted() for x in held), "what was given before is overwritten"
    np.testing.assert_array_equal(run(later), run(other))
    assert not np.array_equal(run(other), run(variables))
    assert again(other, 1, settings) is other, "one row does without"


@pytest.mark.parametrize(
    ("why", "changes", "settings"),
    [
        ("few steps", {}, Settings(max_new_tokens=7)),
        ("layers stacked", {"scan": True}, MANY),
        ("many rows", {}, Settings(max_new_tokens=8, num_beams=22)),
        ("float64", {"dtype": "float64"}, MANY),
    ],
)
def test_kernels_are_not_turned_where_it_would_not_pay(why, changes, settings):
    step, variables, prompt, source = setup("gpt2", **changes)
    assert products.TURNED not in step.cache(3, 16, variables, source, settings), why


def test_one_row_has_its_kernels_as_they_are():
    step, *_ = setup("gpt2")
    assert products.TURNED not in step.cache(1, 16, settings=MANY)
    assert products.TURNED in step.cache(1, 16, settings=Settings(max_new_tokens=8, num_beams=2))


def test_bfloat16_without_the_processors_is_float32_products_of_rounded_operands(without_bfloat16):
    x, w, g = normal(6, 40), normal(40, 8, seed=1), normal(6, 8, seed=2)
    low = lambda a: a.astype(jnp.bfloat16).astype(jnp.float32)
    run = lambda x, w: products.product("ab,bc->ac", x, w, "bfloat16")
    y, back = jax.vjp(run, x, w)
    dx, dw = back(g)
    exact = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, low(x) @ low(w), **exact)
    np.testing.assert_allclose(dx, low(g) @ low(w).T, **exact)
    np.testing.assert_allclose(dw, low(x).T @ low(g), **exact)
    assert "bf16" not in str(jax.make_jaxpr(run)(x, w)), "the product itself is float32's"
    assert run(x.astype(jnp.bfloat16), w).dtype == jnp.bfloat16


def test_a_processor_with_bfloat16_multiplies_it(monkeypatch):
    monkeypatch.setattr(placement, "_has_bfloat16", lambda: True)
    run = lambda x, w: products.product("ab,bc->ac", x, w, "bfloat16")
    assert "bf16" in str(jax.make_jaxpr(run)(normal(6, 40), normal(40, 8)))


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 fma\nbugs\t: x\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\nprocessor\t: 1\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),
        ("", True),
    ],
)
def test_what_the_system_says_of_the_processor(text, has):
    assert placement.multiplies_bfloat16(text) is has


def test_products_of_bfloat16_states_give_float32_inside_on_a_cpu():
    x, w = normal(70, 4).astype(jnp.bfloat16), normal(4, 3, seed=1)
    run = lambda x, w: products.product("ab,bc->ac", x, w, "bfloat16")
    made = str(jax.make_jaxpr(run)(x, w))
    assert "preferred_element_type=float32" in made and run(x, w).dtype == jnp.bfloat16
