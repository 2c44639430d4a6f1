"""Legacy torch files of known nets: EfficientNets under the names of the package efficientnet_pytorch."""

from pathlib import Path

from models.families_conv import FAMILIES
from models.interop import legacy_torch
from models.interop.names_conv import TABLES
from models.interop.rename import lines, nest
from models.options import Options

_TABLE = TABLES["pth/EfficientNet"]


def load(path) -> tuple:
    """(options, variables) of a .pth file. ValueError, naming the file, for what is not such a net."""
    path = Path(path)
    files = legacy_torch.read(path)
    inner = files.get("state_dict", files)
    files = inner if isinstance(inner, dict) else files
    if "_conv_stem.weight" not in files:
        raise ValueError(
            f"{path} holds no net that is known; expected EfficientNet's _conv_stem.weight"
        )
    bias = getattr(files.get("_fc.bias"), "shape", ())
    labels = bias[0] if len(bias) == 1 and bias[0] else 1  # another shape is none of those below
    for name, row in FAMILIES["efficientnet"].items():
        o = Options.of({**row, "family": "efficientnet", "labels": labels})
        found = lines(_TABLE, o, "")
        names = {line.theirs[0]: line.shape for line in found}
        if names == {key: getattr(value, "shape", None) for key, value in files.items()}:
            break
    else:
        known = ", ".join(FAMILIES["efficientnet"])
        raise ValueError(
            f"the tensors of {path} are those of none of EfficientNet's sizes: {known}"
        )
    variables = {"params": {}}
    for line in found:
        flat = variables.setdefault(line.collection, {})
        flat[line.ours[0]] = line.load([files[line.theirs[0]]])[0]
    return o, {collection: nest(flat) for collection, flat in variables.items()}
