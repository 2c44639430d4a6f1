"""Which models the benchmarks build: a family and a size, or one of the small shapes named here."""

from models import families
from models.options import Options

# Shapes beside the published ones: 12m is the small model of the benchmarks' literature, tiny is for
# tests. Everything else of a row is the family's.
SMALL = {
    ("gpt2", "12m"): dict(vocab=4096, context=256, layers=6, width=384, heads=6),
    ("gpt2", "tiny"): dict(vocab=256, context=64, layers=2, width=32, heads=4),
    ("llama", "12m"): dict(
        vocab=4096, context=256, layers=6, width=384, heads=6, kv_heads=2, ff=1024
    ),
    ("resnet", "tiny"): dict(
        depths=(1, 1), widths=(8, 8), strides=(1, 2), stem=(8,), stem_kernel=7, stem_stride=2,
        stem_pool=True, image_size=32, labels=10,
    ),
    ("bert", "tiny"): dict(vocab=256, context=64, layers=2, width=32, heads=4),
    ("t5", "tiny"): dict(vocab=256, context=64, layers=2, width=32, heads=4, ff=64),
    ("bart", "tiny"): dict(vocab=256, context=64, layers=2, width=32, heads=4, ff=64),
    ("longformer", "tiny"): dict(
        vocab=256, context=64, layers=2, width=32, heads=4, windows=(8,)
    ),
    ("llama", "tiny"): dict(
        vocab=256, context=64, layers=2, width=32, heads=4, kv_heads=2, ff=96
    ),
}  # fmt: skip
QUIET = dict(
    drop_embed=0.0, drop_attn=0.0, drop_resid=0.0, drop_head=0.0, drop_path=0.0, drop_act=0.0,
    drop_final=0.0,
)  # fmt: skip


def options(family: str, size: str, **changes) -> Options:
    """The options of a size, without dropout; an encoder has the masked-language head.

    ValueError names the known sizes for another one.
    """
    small = SMALL.get((family, size))
    if small is None:
        known = [*families.sizes(family), *(s for f, s in SMALL if f == family)]
        if size not in known:
            raise ValueError(f"{family} has no size {size!r}; known: {', '.join(known)}")
        row = families.row(family, size, **{**QUIET, **changes})
    else:
        row = families.row(family, **{**QUIET, **small, **changes})
    if row.get("kind") == "encoder" and "head" not in changes:
        row["head"] = "masked"
    return Options.of(row)


def variant(text: str) -> dict:
    """`remat=full,attend=blocks` as options with their types; "" is no change."""
    found = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} is no variant; expected option=value[,option=value]")
        kinds = {"true": True, "false": False}
        number = value.lstrip("-").isdigit()
        found[name] = kinds[value.lower()] if value.lower() in kinds else (
            int(value) if number else value
        )  # fmt: skip
    return found
