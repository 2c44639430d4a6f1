"""How good a run's features are, frozen: nearest neighbours and a linear classifier.

    python -m scripts.probe --from runs/beit [--source fashion-mnist] [--labelled 0.1] [--neighbours 20]

The run's own data are read as they are evaluated, without augmentation; --source and the others replace
what its config says. Both are fitted on the training part and scored on the held-out one.
"""

import sys

from eval import probe
from train.core import checkpoint, errors
from train.data import images


def main(argv=None) -> int:
    """The command."""
    parser = errors.Parser(prog="python -m scripts.probe", description=__doc__)
    parser.add_argument("--from", dest="run", required=True, help="a run of a loop over pictures")
    parser.add_argument("--source", default="", help="pictures; default: the run's")
    parser.add_argument("--labelled", type=float, default=0.0, help="share of the training labels")
    parser.add_argument("--neighbours", type=int, default=20)
    options = parser.parse_args(argv)
    if options.neighbours < 1:
        raise ValueError(f"--neighbours is {options.neighbours}; expected at least 1")
    if not 0 <= options.labelled <= 1:
        raise ValueError(f"--labelled is {options.labelled}; expected a share above 0, at most 1")
    config, model, variables, _ = checkpoint.load_run(options.run)
    if "source" not in config.data or "image_size" not in config.model:
        raise ValueError(f"{options.run} is no run of a loop over pictures")
    config.data.source = options.source or config.data.source
    config.data.labelled = options.labelled or config.data.get("labelled", 1.0)
    parts = images.parts(config)
    if "valid" not in parts or parts["train"].targets.ndim > 1:
        raise ValueError(f"{config.data.source} has no held-out part with one label each")
    sides = [
        probe.features(model, variables, images.held(config, parts[name], whole=True))
        for name in ("train", "valid")
    ]
    print(f"{len(sides[0][0]):,} pictures, features of {sides[0][0].shape[1]}")
    print(f"{options.neighbours} neighbours  {probe.neighbours(*sides, k=options.neighbours):.4f}")
    print(f"linear  {probe.linear(*sides):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(errors.cleanly(main)())
