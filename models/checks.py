"""What `models.options.Options` refuses: ill-typed, unknown and contradictory values, named."""

import math

from models import convnets, pictures, sides
from models.choices import CHOICES, HEADS

FLOAT32 = 3.4e38  # the largest number that tables of angles hold


def check(o):
    """ValueError, naming the option, for values that no model can have together."""
    for name, allowed in CHOICES.items():
        if getattr(o, name) not in allowed:
            raise ValueError(
                f"model.{name} is {getattr(o, name)!r}; expected one of {', '.join(allowed)}"
            )
    _sizes(o)
    _numbers(o)
    _pattern(o)


def _sizes(o):
    for name in ("vocab", "context", "layers", "width", "heads"):
        if getattr(o, name) < 1:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected at least 1")
    for name in (
        "kv_heads", "head_size", "ff", "experts", "labels", "window", "position_offset",
        "share_groups", "token_types", "embed_width",
    ):  # fmt: skip
        if getattr(o, name) < 0:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected 0 or more")
    if not o.head_size and o.width % o.heads:
        raise ValueError(
            f"model.heads={o.heads} does not divide model.width={o.width}; "
            "choose another number of heads or give model.head_size"
        )
    if o.heads % o.groups:
        raise ValueError(f"model.kv_heads={o.kv_heads} does not divide model.heads={o.heads}")
    if o.experts and not 1 <= o.experts_per_token <= o.experts:
        raise ValueError(
            f"model.experts_per_token={o.experts_per_token} must lie between 1 and "
            f"model.experts={o.experts}"
        )
    if o.positions in ("rotary", "sinusoidal", "sinusoidal_halves"):
        size = o.size if o.positions == "rotary" else o.width
        if size % 2:
            raise ValueError(f"{o.positions} positions need an even size, not {size}")
    sides.check(o)
    convnets.check(o)
    pictures.check(o)
    if o.head not in HEADS[o.kind]:
        known = ", ".join(HEADS[o.kind])
        raise ValueError(f"model.head is {o.head!r}; heads of a {o.kind} are {known}")
    if o.head in ("classify", "double", "tokens", "distilled") and not o.labels:
        raise ValueError(f"model.head={o.head!r} needs model.labels of at least 1")
    for name in sides.RATES:
        if not 0.0 <= getattr(o, name) < 1.0:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected 0 <= rate < 1")


def _numbers(o):
    """What is no count: finite, and of a sign with which there are numbers at all."""
    for name in ("norm_eps", "init_std", "init_positions", "balance"):
        if not 0 <= getattr(o, name) < math.inf:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected a number from 0 on")
    for name in ("rope_theta", "rope_factor", "rope_low", "rope_high", "rope_original"):
        if not 0 < getattr(o, name) <= FLOAT32:
            raise ValueError(f"model.{name} is {getattr(o, name)}; expected a number above 0")
    if o.rope_scaling == "llama3" and o.rope_low >= o.rope_high:
        raise ValueError(
            f"model.rope_low={o.rope_low} must lie below model.rope_high={o.rope_high}"
        )


def _pattern(o):
    known = ("global", "shifted") if o.kind == "swin" else ("global", "local")
    unknown = [kind for kind in o.pattern if kind not in known]
    if not o.pattern or unknown:
        raise ValueError(
            f"model.pattern is {o.pattern!r}; expected a tuple of {known[0]!r} and {known[1]!r}"
        )
    if "local" in o.pattern and o.window < 1:
        raise ValueError("model.pattern has local layers; give model.window of at least 1")
    if any(type(w) is not int or w < 2 or w % 2 for w in o.windows):
        raise ValueError(f"model.windows is {o.windows!r}; expected even numbers of at least 2")
    if o.windows and (o.causal or "local" in o.pattern or o.cross):
        raise ValueError("model.windows need model.causal=False, a global pattern and no cross")
    if o.windows and o.global_slots < 1:
        raise ValueError(f"model.global_slots is {o.global_slots}; expected at least 1")
    if o.attend == "banded" and not o.windows:
        raise ValueError("model.attend='banded' needs model.windows")
    _sharing(o)


def _sharing(o):
    if o.share_inner < 1 or (o.share_inner > 1 and not o.share_groups):
        raise ValueError(
            f"model.share_inner={o.share_inner} needs to be positive, with model.share_groups"
        )
    if not o.share_groups:
        return
    if o.share_groups > o.layers:
        raise ValueError(
            f"model.share_groups={o.share_groups} is more than model.layers={o.layers}"
        )
    if len(set(o.kinds())) > 1:
        raise ValueError("model.share_groups needs layers of one kind; see pattern and windows")


def typed(field, value):
    """The value with the field's type; ints pass for floats and lists for tuples, nothing else."""
    kind = {"str": str, "int": int, "float": float, "bool": bool, "tuple": tuple}.get(
        field.type if isinstance(field.type, str) else field.type.__name__
    )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(
            f"model.{field.name} is {value!r} ({type(value).__name__}); expected {kind.__name__}"
        )
    return value
