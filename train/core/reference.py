"""Models of the reference library as commands and loops open them.

What `models.interop` reads, and besides PEFT folders whose base is a run of ours: `train.classify` and
`train.sft` write such ones beside a run that starts from another (`config.init.checkpoint`).
"""

from pathlib import Path

from PIL import Image

from models import interop
from models.build import IMAGES
from models.interop import adapters
from models.interop.about import PROBLEMS, About
from models.interop.tokens import ROLES
from models.options import Options
from train.core import checkpoint

TASKS = {"regress": PROBLEMS[0], "multilabel": PROBLEMS[2]}  # config.data.task: what it is called


def is_run(path) -> bool:
    """Whether a folder is a run of ours or one of its steps."""
    return any((Path(path) / name).is_dir() for name in ("checkpoints", "state"))


def load(path) -> interop.Loaded:
    """`interop.load`, with the base of a PEFT folder wherever it is from."""
    path = Path(path)
    if not adapters.found(path):
        return interop.load(path)
    under = adapters.base(path)
    return interop.load(path, of_run(under) if is_run(under) else load(under))


def options(path) -> Options:
    """`interop.options`, with the base of a PEFT folder wherever it is from."""
    path = Path(path)
    if not adapters.found(path):
        return interop.options(path)
    under = adapters.base(path)
    if not is_run(under):
        return interop.options(path, options(under))
    config = checkpoint.read_config(checkpoint.find(under))
    return interop.options(path, Options.of(config["model"]).replace(scan=False))


def with_tokenizer(folder) -> Path:
    """The folder that a reference folder's tokenizer is in: a PEFT folder without one has its base's."""
    folder = Path(folder)
    while adapters.found(folder) and not (folder / "tokenizer.json").is_file():
        folder = adapters.base(folder)
    return folder


def of_run(path) -> interop.Loaded:
    """A run's newest good checkpoint, or a step's folder, in the form of what `interop.load` gives."""
    path = checkpoint.find(path)
    config, _, variables, tokenizer = checkpoint.load_run(path)
    special = {role: getattr(tokenizer, role, -1) for role in ROLES}
    return interop.Loaded(
        options=Options.of(config.model.to_dict()),
        variables=variables,
        tokenizer=getattr(tokenizer, "raw", None),
        special=special,
        chat_template=getattr(tokenizer, "chat_template", ""),
        config={},
        about=about(config, checkpoint.read_labels(path)),
    )


def about(config, labels) -> About:
    """What a run knows of its classes and pixels."""
    data = config.get("data", {})
    scale, task = {}, data.get("task", "classify")
    if config.model.get("kind") in IMAGES and ("source" in data or "mean" in data):
        from train.data import images

        shape = images.shape(config)
        scale = dict(mean=tuple(shape.mean), deviation=tuple(shape.deviation))
        scale |= dict(crop=shape.crop_share, resample=int(Image.Resampling[shape.resample.upper()]))
    return About(labels, TASKS.get(task, PROBLEMS[1] if labels else ""), **scale)
