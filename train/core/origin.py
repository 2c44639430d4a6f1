"""Where a fine-tuning run comes from: the options and the parameters of the model that it starts as."""

import jax
import jax.numpy as jnp
import numpy as np

from models.build import build, example, shapes
from models.options import Options
from train.core import checkpoint, forms, lora, reference, shard
from train.core.errors import nearest

OWN = ("head", "labels", "drop_", "pool", "score_")  # what a run may set beside the model's own
COMPUTED = ["dtype", "stream", "remat", "scan", "attend"]
BODY = ("heads", "head_size", "head_act", "head_bias", "head_scale")
# What a model computes from parameters of the same shapes.
COMPUTES = (
    "norm", "norm_place", "norm_eps", "final_norm", "act", "experts_per_token", "positions",
    "position_offset", "position_pad", "causal", "pattern", "window", "score_scale", "scale_by_layer",
    "embed_scale", "head_scale", "tied",
)  # fmt: skip
ROTARY = ("rope_theta", "rope_scaling")
SCALING = ("rope_factor", "rope_low", "rope_high", "rope_original")


def options(config) -> Options:
    """`config.model`, or with `config.init.model` that of the model that config.init names."""
    return inherited(config) if config.init.get("model", False) else Options.of(model(config))


def model(config) -> dict:
    return config.model.to_dict()


def inherited(config) -> Options:
    """The options of `config.init`'s model, with the head, its outputs and dropout of config.model."""
    found = named(config.init)
    if found is None:
        raise ValueError("config.init.model=true takes the model of init.checkpoint or reference")
    own = model(config)
    kept = [n for n in own if n.startswith(OWN)] + COMPUTED
    return found.replace(**{n: own[n] for n in kept if n in own and n not in BODY})


def quiet(o: Options) -> Options:
    """The options without dropout, which alignment has off in every net."""
    rates = [name for name, x in o.plain().items() if name.startswith("drop_") and type(x) is float]
    return o.replace(**dict.fromkeys(rates, 0.0))


def named(init) -> Options | None:
    """The options of the model that a section like config.init names; None where it names none."""
    if init.get("checkpoint", ""):
        return Options.of(checkpoint.read_config(checkpoint.find(init["checkpoint"]))["model"])
    if init.get("reference", ""):
        return reference.options(init["reference"])
    return None


def refuse_other_model(section, o: Options, what: str):
    """ValueError where the model that a section names computes something else than one of options `o`,
    as whose parameters its own would be taken."""
    found = named(section)
    if found is None:
        return
    fields = COMPUTES
    if o.positions == found.positions == "rotary":
        fields += ROTARY + SCALING * (
            o.rope_scaling != "none" and o.rope_scaling == found.rope_scaling
        )
    for field in fields:
        own, other = getattr(o, field), getattr(found, field)
        if own != other:
            raise ValueError(
                f"{what} is a model with {field}={other!r}, config.model has {own!r}; expected the same "
                "model, whose probabilities are compared with its own"
            )


def params(init, o: Options, seed: int, make=None) -> dict:
    """Parameters for a model with these options: those that `init` names, or fresh ones of a seed.

    Heads may be missing there and are then made anew. `make(key)` gives fresh ones (default: the
    model's own). ValueError for another vocabulary or shape.
    """
    found = named(init)
    if found is not None and found.vocab != o.vocab:
        raise ValueError(
            f"the model has a vocabulary of {o.vocab}, the one that it is compared with or starts "
            f"from {found.vocab}; expected the same tokens\n"
            f"it is {init.get('checkpoint', '') or init.get('reference', '')}"
        )
    make = make or (lambda key: build(o).init(key, example(o))["params"])
    own = jax.jit(make)(jax.random.key(seed))
    if found is None:
        return own

    config = {"init": init, "seed": seed}
    return forms.back(lora.base(config, o, own), forms.nest(own))


def zeros(o: Options) -> dict:
    """The parameters' shapes as arrays that take no memory, for `--check`."""
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes(o))


def placed(tree, config, rules=shard.RULES):
    """Parameters laid out on the config's mesh."""
    return shard.laid(tree, shard.mesh(config.mesh), rules)


def adapted(config, o: Options, own=None):
    """The frozen parameters under the adapters of config.lora, laid out; None without adapters.

    own() -> a fresh tree whose heads stand where the model that config.init names has none.
    """
    if not lora.settings(config)["rank"]:
        return None
    return placed(lora.base(config, o, own() if own else None), config)


def scores(o: Options):
    """A fresh reward or value model: `init(key)` with the score's kernel from N(0, 1 / (D + 1)).

    As Ziegler et al. 2019 and Stiennon et al. 2020 have it; the bias is 0.
    """
    whole = build(o).init

    def init(key):
        made = dict(whole(key, example(o))["params"])
        drawn = jax.random.normal(jax.random.fold_in(key, 1), (o.width, o.labels), jnp.float32)
        return {**made, "score": {**made["score"], "kernel": drawn * (o.width + 1) ** -0.5}}

    return init


def check_score(o: Options, what: str):
    """ValueError unless a model gives one number to a sequence."""
    if o.kind == "encdec" or o.head != "classify" or o.labels != 1:
        raise ValueError(
            f"{what} gives one score; expected model.head='classify' and labels=1, found a "
            f"{o.kind} with head={o.head!r} and labels={o.labels}"
        )


def check_policy(o: Options, what: str = "config.model"):
    """ValueError unless a model writes answers token by token."""
    if o.kind != "decoder" or o.head not in ("lm", "double"):
        raise ValueError(
            f"{what} is a {o.kind} with head={o.head!r}; expected a decoder, head='lm'"
        )


def template(config, tokenizer) -> str:
    """The chat template of `config.data.template`: a shipped name, a file, or "" for the model's own."""
    from pathlib import Path

    from train.data.tokenizer import EMBEDDED

    given = config.data.get("template", "")
    folder = EMBEDDED / "templates"
    names = sorted(path.stem for path in folder.glob("*.jinja"))
    if not given:
        return tokenizer.chat_template
    path = folder / f"{given}.jinja" if given in names else Path(given)
    if not path.is_file():
        raise ValueError(f"config.data.template is {given!r}, no file; {nearest(given, names)}")
    return path.read_text(encoding="utf-8")
