"""Options and the table of families: what is refused, and the published parameter counts."""

import json

import jax
import numpy as np
import pytest

from models import families, interop
from models.build import count, shapes
from models.options import Options


@pytest.mark.parametrize("family,size", list(families.COUNTS))
def test_parameter_counts_are_the_published_ones(family, size):
    assert count(Options.of(families.row(family, size))) == families.COUNTS[family, size]


def test_every_row_is_counted_and_plain():
    for family in families.FAMILIES:
        for size in families.sizes(family):
            assert (family, size) in families.COUNTS
            row = families.row(family, size)
            assert Options.of(json.loads(json.dumps(row))) == Options.of(row)


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(heads=5), ("heads=5", "width")),
        (dict(kv_heads=5), ("kv_heads=5", "heads")),
        (dict(layerz=3), ("layerz", "layers")),
        (dict(act="gelu_new"), ("act", "gelu_new", "gelu_tanh")),
        (dict(layers=2.5), ("layers", "2.5", "int")),
        (dict(layers=True), ("layers", "int")),
        (dict(drop_resid=1.0), ("drop_resid", "1.0")),
        (dict(pattern=("global", "near")), ("pattern", "near")),
        (dict(pattern=("local",)), ("window",)),
        (dict(head="classify"), ("labels",)),
        (dict(experts=2, experts_per_token=3), ("experts_per_token", "2")),
        (dict(positions="rotary", head_size=7), ("rotary", "7")),
        (dict(norm_eps=-1.0), ("norm_eps", "-1.0")),
        (dict(norm_eps=float("nan")), ("norm_eps", "nan")),
        (dict(init_std=float("inf")), ("init_std", "inf")),
        (dict(rope_theta=1e300), ("rope_theta", "1e+300")),
        (dict(rope_factor=float("inf")), ("rope_factor", "inf")),
        (dict(rope_scaling="llama3", rope_low=4.0), ("rope_low", "rope_high")),
    ],
)
def test_wrong_options_are_named(change, words):
    with pytest.raises(ValueError) as error:
        families.row("gpt2", "124m", **change)
    assert all(word in str(error.value) for word in words)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("family,size", [("gtp2", ""), ("gpt2", "123m")])
def test_unknown_rows_are_named(family, size):
    with pytest.raises(ValueError, match="gpt2|124m"):
        families.row(family, size)


@pytest.mark.parametrize("head", ["classify", "choice"])
def test_distilberts_classifiers_have_their_dense_layer(tmp_path, head):
    size = dict(
        vocab=60,
        context=20,
        layers=1,
        width=16,
        heads=2,
        head=head,
        labels=2 * (head == "classify"),
    )
    o = Options.of(families.row("bert", "distilbert-base", **size))
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes(o))
    assert "pool" in params
    interop.export(tmp_path, o, params)
    assert interop.load(tmp_path).options.head == head
    assert not Options.of(families.row("bert", "distilbert-base", **size, pooler=False)).pooler
