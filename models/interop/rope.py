"""Rotary settings in both spellings of config.json: `rope_parameters`, and the older `rope_theta`
with `rope_scaling` (whose kind is `rope_type` or, older still, `type`).
"""

from collections.abc import Mapping


def read(c: Mapping, theta: float, context: int) -> dict:
    """Our rope_* options; `theta` is the model_type's default base, `context` its position limit.

    Raises ValueError for scalings other than linear and llama3, and for partial rotation.
    """
    found = c.get("rope_scaling") or c.get("rope_parameters") or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"config.json: rope settings are {found!r:.60}; expected an object")
    if any(isinstance(value, Mapping) for value in found.values()):
        raise ValueError("config.json: rope_parameters per kind of layer are not supported")
    kind = found.get("rope_type", found.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(
            f"config.json: rope_type {kind!r:.80} is not supported; expected default, linear or llama3"
        )
    part = found.get("partial_rotary_factor", c.get("partial_rotary_factor"))
    if part not in (None, 1, 1.0):
        raise ValueError(f"config.json: partial_rotary_factor = {part!r:.80} is not supported")
    base = found.get("rope_theta")
    base = c.get("rope_theta") if base is None else base
    o = dict(rope_theta=theta if base is None else _number(base, "rope_theta"))
    if kind == "default":
        return o
    o.update(rope_scaling=kind, rope_factor=_number(found.get("factor"), "rope factor"))
    if kind == "llama3":
        original = c.get("original_max_position_embeddings") or found.get(
            "original_max_position_embeddings", context
        )
        o.update(
            rope_low=_number(found.get("low_freq_factor"), "rope low_freq_factor"),
            rope_high=_number(found.get("high_freq_factor"), "rope high_freq_factor"),
            rope_original=int(_number(original, "original_max_position_embeddings")),
        )
    return o


def _number(value, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"config.json: {name} is {value!r:.60}; expected a number above 0")
    return float(value)


def write(o) -> dict:
    """The fields of config.json in both spellings, which agree: every reader takes its own."""
    scaling = {"rope_type": o.rope_scaling, "factor": o.rope_factor}
    if o.rope_scaling == "llama3":
        scaling.update(
            low_freq_factor=o.rope_low,
            high_freq_factor=o.rope_high,
            original_max_position_embeddings=o.rope_original,
        )
    if o.rope_scaling == "none":
        scaling = {"rope_type": "default"}
    return {
        "rope_theta": o.rope_theta,
        "rope_scaling": scaling if o.rope_scaling != "none" else None,
        "rope_parameters": {**scaling, "rope_theta": o.rope_theta},
    }
