"""Sections of a config that one loop reads: defaults, and mistakes named."""

from train.core.errors import nearest


def section(config, name: str, defaults: dict) -> dict:
    """`config[name]` over its defaults; ValueError names a field that there is not, or a wrong type."""
    given = dict(config.get(name, {}))
    for key, value in given.items():
        if key not in defaults:
            raise ValueError(f"config.{name} has no field {key!r}; {nearest(key, defaults)}")
        kind = type(defaults[key])
        fine = type(value) is kind or (kind is float and type(value) is int)
        if not fine:
            raise ValueError(f"config.{name}.{key} is {value!r}; expected {kind.__name__}")
    return {**defaults, **given}


def one_of(name: str, value, known):
    """ValueError unless a field's value is known."""
    if value not in known:
        raise ValueError(f"config.{name} is {value!r}; {nearest(str(value), list(known))}")


def within(name: str, section: dict, limits: dict):
    """ValueError unless fields of a section lie where `limits` says: {field: (least, most or None)}."""
    for field, (least, most) in limits.items():
        value = section[field]
        if not (value >= least and (most is None or value <= most)):
            expected = f"at least {least}" + ("" if most is None else f", at most {most}")
            raise ValueError(f"config.{name}.{field} is {value}; expected {expected}")


def positive(name: str, section: dict, fields):
    """ValueError unless some fields of a section are above 0."""
    for field in fields:
        if not section[field] > 0:
            raise ValueError(f"config.{name}.{field} is {section[field]}; expected more than 0")


def share(name: str, value, zero: bool = True, one: bool = False):
    """ValueError unless a field lies between 0 and 1; whether the ends count, `zero` and `one` say."""
    inside = isinstance(value, int | float) and 0 <= value <= 1
    if not inside or (value == 0 and not zero) or (value == 1 and not one):
        ends = f"0 {'<=' if zero else '<'} x {'<=' if one else '<'} 1"
        raise ValueError(f"config.{name} is {value!r}; expected {ends}")
