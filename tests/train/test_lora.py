"""Low-rank adapters: what they add, what they train, and what cannot be adapted."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from models import families
from models.build import build, example, shapes
from models.options import Options
from train.core import forms, lora
from train.core.layerwise import layerwise

SIZE = {"vocab": 40, "context": 16, "layers": 2, "width": 16, "heads": 2, "ff": 32}
HOW = {
    "rank": 3,
    "alpha": 6.0,
    "targets": r"(attn/(q|o)|mlp/up)/kernel$",
    "whole": r"^(score|pool)/",
}


def options(**more):
    return Options.of(
        {**families.row("bert", "base"), **SIZE, "head": "classify", "labels": 2, **more}
    )


@pytest.fixture(scope="module")
def base():
    return build(options()).init(jax.random.key(0), example(options()))["params"]


def trained(base):
    """Adapters that are not zero."""
    made = forms.flat(lora.init(jax.random.key(1), base, HOW))
    return forms.nest({path: x + 0.1 for path, x in made.items()})


def test_a_fresh_adapter_changes_nothing(base):
    made = lora.init(jax.random.key(1), base, HOW)
    merged = lora.merge(base, made, HOW)
    assert forms.flat(merged).keys() == forms.flat(base).keys()
    for path, x in forms.flat(merged).items():
        np.testing.assert_array_equal(x, forms.flat(base)[path])
    names = forms.flat(made)
    assert sum(path.startswith("lora/") for path in names) == 2 * 3 * 2
    assert {path for path in names if not path.startswith("lora/")} == {
        "score/kernel", "score/bias", "pool/kernel", "pool/bias",
    }  # fmt: skip
    a = names["lora/blocks/0/attn/q/kernel/a"]
    assert a.shape == (16, 3) and 0.1 < np.abs(a).max() <= 0.25


def test_the_sum_is_w_plus_alpha_over_r_a_b(base):
    made = trained(base)
    before, after, flat = (forms.flat(x) for x in (base, lora.merge(base, made, HOW), made))
    for path, shape in (
        ("blocks/1/attn/q/kernel", (16, 16)), ("blocks/0/attn/o/kernel", (16, 16)),
        ("blocks/0/mlp/up/kernel", (16, 32)),
    ):  # fmt: skip
        a, b = np.asarray(flat[f"lora/{path}/a"]), np.asarray(flat[f"lora/{path}/b"])
        want = np.asarray(before[path]).reshape(shape) + 2.0 * (a @ b)
        np.testing.assert_allclose(np.asarray(after[path]).reshape(shape), want, atol=1e-6)
    np.testing.assert_array_equal(after["score/bias"], flat["score/bias"])
    np.testing.assert_array_equal(after["blocks/0/attn/k/kernel"], before["blocks/0/attn/k/kernel"])


def test_what_cannot_be_adapted_is_said(base):
    with pytest.raises(ValueError, match="matches no kernel"):
        lora.targets(base, r"attn/z/kernel")
    with pytest.raises(ValueError, match="model.scan=false"):
        lora.targets(shapes(options(scan=True)), HOW["targets"])
    with pytest.raises(ValueError, match="both targets and whole"):
        lora.init(jax.random.key(0), base, {**HOW, "whole": r"attn/q"})
    with pytest.raises(ValueError, match='did you mean "rank"'):
        lora.settings(ConfigDict({"lora": {"rnak": 3}}))
    with pytest.raises(ValueError, match="config.lora.dropout: .*inputs cannot be dropped"):
        lora.settings(ConfigDict({"lora": {"rank": 3, "dropout": 0.1}}))
    with pytest.raises(ValueError, match="config.init names none"):
        lora.base(ConfigDict({"init": {"checkpoint": "", "reference": ""}}), options())
    with pytest.raises(
        ValueError, match='config.lora.whole: "scoer/" matches no parameter of .*score'
    ):
        lora.init(jax.random.key(0), base, {**HOW, "whole": "scoer/"})
    for name in ("targets", "whole"):
        with pytest.raises(ValueError, match=f"config.lora.{name}: .* is not a regular expression"):
            lora.settings(ConfigDict({"lora": {"rank": 3, name: "attn/(q|v"}}))
    assert lora.settings(ConfigDict({}))["rank"] == 0


def test_the_default_whole_may_match_nothing(base):
    headless = {name: x for name, x in base.items() if name not in ("score", "pool")}
    assert list(
        lora.init(jax.random.key(0), headless, {**HOW, "whole": lora.DEFAULTS["whole"]})
    ) == ["lora"]


def test_layerwise_rates_are_of_what_is_trained():
    """Rows for layers without adapters would match nothing, and the optimiser would refuse them."""
    how = {"rank": 2, "targets": "blocks/1/attn/q/kernel", "whole": "^score/"}
    rows = layerwise(options(), 0.5, ConfigDict({"lora": how}))
    assert rows == ((r"(^|/)blocks/1/", 0.5),)
    rows = layerwise(options(), 0.5, ConfigDict({"lora": {**how, "whole": "^embed/types"}}))
    assert rows == ((r"(^|/)blocks/1/", 0.5), (r"^(lora/)?embed/", 0.125))


@pytest.mark.parametrize("decay", [-0.9, 0.0, 5.0, float("nan")])
def test_a_layer_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="config.layer_decay is .*; expected 0 < x <= 1"):
        layerwise(options(), decay, ConfigDict({}))
