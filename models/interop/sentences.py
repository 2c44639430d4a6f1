"""The files of sentence-transformers that make a vector of a folder's hidden states.

`hf.export` writes them for a model with the head "embed"; its config.json alone is that of an encoder
without a head, and says nothing of which states are taken.
"""

import json
from pathlib import Path

from models.options import Options

MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
MODES = {"first": "cls_token", "mean": "mean_tokens"}  # their names of `Options.pool`


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
