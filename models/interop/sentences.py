"""The files of sentence-transformers that make a vector of a folder's hidden states, written and read.

`hf.export` writes them for a model with the head "embed"; its config.json alone is that of an encoder
without a head, and says nothing of which states are taken.
"""

import json
from pathlib import Path

from models.interop.untrusted import read_json
from models.options import Options

MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
MODES = {"first": "cls_token", "mean": "mean_tokens"}  # their names of `Options.pool`
# What is scaled to length one afterwards: the sum over any power of the count is the mean.
POOLS = {
    "cls_token": "first", "cls": "first", "mean_tokens": "mean", "mean": "mean",
    "mean_sqrt_len_tokens": "mean", "mean_sqrt_len": "mean",
}  # fmt: skip


def write(folder: Path, o: Options) -> None:
    """modules.json, sentence_bert_config.json and 1_Pooling/config.json of unit vectors."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(MODULES.items())
    ]
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {"word_embedding_dimension": o.width}
    pooling |= {f"pooling_mode_{mode}": mode == MODES[o.pool] for mode in modes}
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": o.context, "do_lower_case": False},
        "1_Pooling/config.json": pooling,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def pool(folder: Path) -> str:
    """`Options.pool` of a folder's vectors of length one: "first" or "mean", which is also for one that says
    nothing. ValueError for what we do not compute: other ways to pool, or layers that come afterwards.
    """
    for path in sorted(folder.glob("[0-9]*_*")):
        if path.name.partition("_")[2] not in ("Pooling", "Normalize", "Transformer"):
            raise ValueError(
                f"{folder} makes its vectors with {path.name}, which is not supported; expected a pooling "
                "and a normalization"
            )
    file = folder / "1_Pooling" / "config.json"
    told = read_json(file) if file.is_file() else {}
    modes = [name[len("pooling_mode_") :] for name in told if name.startswith("pooling_mode_")]
    modes = [mode for mode in modes if told[f"pooling_mode_{mode}"] is True]
    stated = told.get("pooling_mode")
    modes += stated if isinstance(stated, list) else [stated] if stated else []
    if len(modes) > 1 or any(mode not in POOLS for mode in map(str, modes)):
        raise ValueError(f"{file} pools by {modes!r:.80}; expected the first token or the mean")
    return POOLS[modes[0]] if modes else "mean"
