"""Learning rates that fall with a layer's distance from the head (Howard and Ruder 2018)."""

from models.options import Options
from train.core import lora


def layerwise(o: Options, decay: float, config) -> tuple:
    """Rows (regex, factor): layer i of L gets decay^(L-i), the embeddings decay^(L+1), heads 1."""
    if o.share_groups:
        raise ValueError("config.layer_decay needs layers of their own; this model shares them")
    rows = [(rf"(^|/)blocks/{i}/", decay ** (o.layers - i)) for i in range(o.layers)]
    if not lora.settings(config)["rank"]:
        rows.append((r"^embed/", decay ** (o.layers + 1)))
    return tuple(rows)
