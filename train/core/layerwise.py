"""Learning rates that fall with a layer's distance from the head (Howard and Ruder 2018)."""

import re

from models.build import shapes
from models.options import Options
from train.core import forms, lora
from train.core.sections import share


def layerwise(o: Options, decay: float, config) -> tuple:
    """Rows (regex, factor): layer i of L gets decay^(L-i), the embeddings decay^(L+1), heads 1.

    With adapters only what they or `lora.whole` train has a row. ValueError for a decay that is not
    above 0 and at most 1, and for a model whose layers share their parameters.
    """
    share("layer_decay", decay, zero=False, one=True)
    if o.share_groups:
        raise ValueError("config.layer_decay needs layers of their own; this model shares them")
    rows = [(rf"(^|/)blocks/{i}/", decay ** (o.layers - i)) for i in range(o.layers)]
    how = lora.settings(config)
    if not how["rank"]:
        return (*rows, (r"^embed/", decay ** (o.layers + 1)))
    rows.append((r"^(lora/)?embed/", decay ** (o.layers + 1)))
    tree = shapes(o)
    whole = [path for path in forms.flat(tree) if re.search(how["whole"] or r"(?!)", path)]
    trained = [*(f"lora/{path}" for path in lora.targets(tree, how["targets"])), *whole]
    return tuple(row for row in rows if any(re.search(row[0], path) for path in trained))
