"""Low-rank adaptation (Hu et al. 2021): W + (alpha / r) a b, with W frozen and a, b trained.

    config.lora = dict(rank=8, alpha=16.0, targets=r"attn/(q|v)/kernel$", whole=r"^(score|pool)/")

The parameters that a run trains are `{"lora": {path: {"a": [in, r], "b": [r, out]}}}` beside the
subtrees that `whole` matches, which are trained as they are; everything else is the task's `frozen`.
A kernel counts as the matrix that it is: q, k, v as D x HK, o as HK x D. a starts uniform in
+-1/sqrt(in) and b at zero, as the reference library has it, so that a run starts from the frozen
model. The sum is made once a step, before anything is multiplied: the reference's `lora_dropout`, which
drops the input of `a` for every token anew, would need x W and (x dropped) a b apart at every adapted
projection. It is not offered, and `config.lora.dropout` is refused; the model's own rates
(`model.drop_attn`, `drop_resid`, `drop_head`) act as in any other run.
"""

import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from models.build import build, example
from models.options import Options
from train.core import forms, shard
from train.core.errors import nearest
from train.core.optim import _STACKED

RULES = ((r"(^|/)lora/", P()), *shard.RULES)
DEFAULTS = {"rank": 0, "alpha": 16.0, "targets": r"attn/(q|v)/kernel$", "whole": r"^(score|pool)/"}
FRESH = r"^(score|head|pool)/"  # what a model may have beyond the one that it starts from
_OUTPUT, _INPUT = re.compile(r"(^|/)o/kernel$"), re.compile(r"(^|/)[qkv](_global)?/kernel$")


def settings(config) -> dict:
    """`config.lora` with its defaults; rank 0 is off. ValueError names a field that there is not."""
    given = dict(config.get("lora", {}))
    for name in given:
        if name in ("dropout", "lora_dropout"):
            raise ValueError(
                f"config.lora.{name}: adapters are added to the weights, so that their inputs cannot be "
                "dropped; expected rank, alpha, targets and whole alone (model.drop_* are dropout's rates)"
            )
        if name not in DEFAULTS:
            raise ValueError(f"config.lora has no field {name!r}; {nearest(name, DEFAULTS)}")
    found = {**DEFAULTS, **given}
    if not (found["rank"] >= 0 and 0 < found["alpha"] < math.inf):
        raise ValueError(
            f"config.lora has rank={found['rank']}, alpha={found['alpha']}; expected rank >= 0 and "
            "alpha > 0"
        )
    for name in ("targets", "whole"):
        try:
            re.compile(found[name])
        except re.error as error:
            raise ValueError(
                f'config.lora.{name}: "{found[name]}" is not a regular expression: {error}'
            ) from None
    return found


def sides(path: str, shape) -> tuple[int, int]:
    """(in, out) of a kernel as a matrix."""
    if _OUTPUT.search(path):
        cut = len(shape) - 1
    elif _INPUT.search(path):
        cut = 1
    else:
        cut = len(shape) - 1
    return math.prod(shape[:cut]), math.prod(shape[cut:])


def base(config, o, made=None) -> dict:
    """The parameters that `config.init` names, for a model with these options; heads may be fresh.

    `made`: fresh parameters, of which the heads' are taken. Raises ValueError where it names none, or
    the model has a parameter that it lacks.
    """
    from train.core import checkpoint, reference

    init = config.get("init", {})
    if init.get("checkpoint", ""):
        source = checkpoint.find(init["checkpoint"])
        given, _ = loaded(source)
    elif init.get("reference", ""):
        source = init["reference"]
        given = reference.load(source).variables["params"]
    else:
        raise ValueError("config.lora adapts a trained model; config.init names none")
    if made is None:
        made = jax.jit(build(o).init)(jax.random.key(config.get("seed", 0)), example(o))["params"]
    own, given = forms.flat(forms.apart(forms.nest(made))), forms.flat(forms.nest(given))
    for name, x in own.items():
        if name in given and given[name].shape == x.shape:
            own[name] = jnp.asarray(given[name], x.dtype)
        elif not re.search(FRESH, name):
            raise ValueError(
                f"{source} has no parameter {name} {x.shape}, which config.model needs"
            )
    return forms.nest(own)


def loaded(folder, averaged: bool = True) -> tuple[dict, dict]:
    """`checkpoint.load_params` of a folder, the adapters of a run with LoRA added to what it adapts."""
    from train.core import checkpoint

    params, extra = checkpoint.load_params(folder, averaged)
    if "lora" in params:
        config = ConfigDict(checkpoint.read_config(folder))
        o = Options.of(config.model.to_dict()).replace(scan=False)
        under, here = base(config, o), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        both = (jax.device_get(tree) for tree in (under, params))  # whatever mesh is set
        params = jax.device_put(merge(*both, settings(config)), here)
    return params, extra


def targets(base, regex: str) -> list:
    """The paths of the kernels that get adapters; ValueError where the regex matches none."""
    flat = forms.flat(base)
    found = [path for path, x in flat.items() if re.search(regex, path) and x.ndim >= 2]
    if not found:
        some = next(path for path in flat if path.endswith("kernel"))
        raise ValueError(f'config.lora.targets: "{regex}" matches no kernel; paths are as "{some}"')
    stacked = next((path for path in found if _STACKED.search(path)), None)
    if stacked:
        raise ValueError(f"LoRA adapts layers apart, but {stacked} is stacked: model.scan=false")
    return found


def init(key, base, how: dict) -> dict:
    """Fresh adapters beside the whole subtrees of `base` (arrays or shapes only read for a shape)."""
    flat = forms.flat(base)
    whole = how["whole"] or r"(?!)"
    made = {path: x for path, x in flat.items() if re.search(whole, path)}
    if how["whole"] not in ("", DEFAULTS["whole"]) and not made:  # the default fits any head
        tops = ", ".join(sorted({path.split("/")[0] for path in flat}))
        raise ValueError(
            f'config.lora.whole: "{how["whole"]}" matches no parameter of {tops}; "" trains none whole'
        )
    for number, path in enumerate(sorted(targets(base, how["targets"]))):
        if path in made:
            raise ValueError(f"config.lora: {path} is matched by both targets and whole")
        inward, out = sides(path, flat[path].shape)
        bound = 1 / math.sqrt(inward)
        a = jax.random.uniform(
            jax.random.fold_in(key, number), (inward, how["rank"]), minval=-bound, maxval=bound
        )
        made[f"lora/{path}/a"] = a
        made[f"lora/{path}/b"] = jnp.zeros((how["rank"], out), jnp.float32)
    return forms.nest(made)


def merge(base, trained, how: dict) -> dict:
    """The model's parameters: `base` with the whole subtrees put in and the adapters added; pure."""
    flat, ours = forms.flat(base), forms.flat(trained)
    scale = how["alpha"] / how["rank"]
    for path, x in ours.items():
        if not path.startswith("lora/"):
            flat[path] = x
        elif path.endswith("/a"):
            name = path[len("lora/") : -len("/a")]
            both = x @ ours[f"lora/{name}/b"]
            flat[name] = flat[name] + (scale * both).reshape(flat[name].shape).astype(
                flat[name].dtype
            )
    return forms.nest(flat)


def write(config, o, params, folder, base=None):
    """Writes trained adapters as a PEFT folder, or says why there is none; base: what they adapt."""
    from models.interop import adapters

    how, base = settings(config), base if jax.process_count() == 1 else None
    source = config.init.get("reference", "") or config.init.get("checkpoint", "")
    try:
        trained = jax.device_get(params)
        adapters.write(folder, o, trained, how["rank"], how["alpha"], source, base)
        print(f"adapter      {folder}")
    except ValueError as error:
        print(f"no adapter folder: {error}")
