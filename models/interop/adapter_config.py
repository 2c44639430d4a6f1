"""What an adapter_config.json of the PEFT library says: which kinds we compute, and each module's scale.

A field that changes what a folder computes is known here or refused, so that a newer kind of adapter is
never read as plain LoRA.
"""

import math
import re
from collections.abc import Mapping

# What starts an adapter only; others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take it off the base's kernels.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# Fields that change nothing in what the tensors of a folder stand for.
FREE = {
    "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "task_type",
    "inference_mode", "r", "lora_alpha", "target_modules", "exclude_modules", "lora_dropout",
    "fan_in_fan_out", "merge_weights", "modules_to_save", "layers_to_transform", "layers_pattern",
    "use_rslora", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core", "eva_config",
    "loftq_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config",
    "init_lora_weights", "bias", "ensure_weight_tying",
}  # fmt: skip
# Modules that the reference's classes for a task save whole, without being asked: ends of their names.
KEPT = {
    "SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}  # fmt: skip
_NAME = re.compile(r"\^?[A-Za-z0-9_.]{1,300}")


def check(folder, config: Mapping) -> None:
    """ValueError for a kind of adapter that is not LoRA as we compute it."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or type(rank) is not int:
        raise ValueError(f"{folder} is no LoRA adapter: peft_type is {config.get('peft_type')!r}")
    if rank < 1 or type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise ValueError(
            f"{folder} has r={rank} and lora_alpha={alpha!r:.40}; expected at least 1 and a number above 0"
        )
    start = config.get("init_lora_weights")
    if not any(start is known or start == known for known in STARTS):
        raise ValueError(
            f"{folder}: init_lora_weights={start!r:.60}: such an adapter belongs to a base whose kernels "
            "were changed when it began; expected one that the library has converted to plain LoRA "
            "(save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if config.get("bias") not in (None, "none"):
        raise ValueError(f"{folder}: bias={config['bias']!r:.60} is not supported; expected 'none'")
    for name, value in config.items():
        if name not in FREE and value not in (None, False, {}, [], ""):
            raise ValueError(
                f"{folder}: {name!s:.60}={value!r:.60} is not supported; expected it off"
            )
    for field, kinds in (("rank_pattern", (int,)), ("alpha_pattern", (int, float))):
        _patterns(folder, field, config.get(field) or {}, kinds)


def _patterns(folder, field, found, kinds):
    """ValueError for what is not {name of a module or its end: number above 0}."""
    named = isinstance(found, Mapping) and all(_NAME.fullmatch(name) for name in found)
    if not named or not all(type(x) in kinds and 0 < x < math.inf for x in found.values()):
        raise ValueError(
            f"{folder}: {field}={found!r:.80}; expected names of modules with numbers above 0"
        )


def scale(config: Mapping, module: str) -> tuple[int, float]:
    """(rank, what b a is multiplied by) of a module: alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023).

    `rank_pattern` and `alpha_pattern` hold those of modules whose names they are, or end with; the
    first that fits.
    """
    rank = _of(config.get("rank_pattern"), module, config["r"])
    alpha = float(_of(config.get("alpha_pattern"), module, config["lora_alpha"]))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of(patterns, module, default):
    for name, value in (patterns or {}).items():
        if name.startswith("^"):
            fits = module == name[1:]
        else:
            fits = module == name or module.endswith(f".{name}")
        if fits:
            return value
    return default


def kept(task, module: str) -> str:
    """The module that is saved whole for a task with `module` in it, or ""."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if name.endswith(KEPT.get(task, ())):
            return name
    return ""
