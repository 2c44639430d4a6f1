"""Every parameter of a model of images has a place on the mesh."""

import jax
import pytest

from models import families
from models.build import shapes
from models.options import Options
from train.core import shard

EXTRA = {
    "vit": dict(registers=2, embed_norm=True, layer_scale=0.1, pool_norm=True),
    "deit": dict(mask_token=True),
    "beit": dict(relative_shared=True),
    "swin": dict(head="pixels", mask_token=True, labels=0),
}


@pytest.mark.parametrize("family", list(EXTRA))
@pytest.mark.parametrize("scan", [False, True])
def test_every_parameter_has_a_rule(family, scan):
    o = Options.of(families.row(family, "", **EXTRA[family], scan=scan))
    mesh = shard.mesh({"data": 2, "fsdp": 2, "tensor": 2})
    tree = shapes(o)
    placed = shard.params(tree, mesh)
    cut = [s.spec for s in jax.tree.leaves(placed) if any(s.spec)]
    assert len(cut) > 6
    kernel = placed["embed"]["patch"]["kernel"].spec
    assert kernel[-1] == "fsdp" and not any(kernel[:-1])
