"""How fast pictures come: a config's training stream alone, without a model.

    python -m scripts.feed --config=configs/deit.py:s --config.data.source=FOLDER --workers 0 4 16

Prints images per second for each number of Grain workers (0: in the process itself), after the first
batch of every worker. A run is limited by its model where this exceeds its `images_per_second`.
"""

import sys
import time

from rich.console import Console
from rich.table import Table

from train.core import arguments, config, errors
from train.data import images, workers


def measure(stream, count: int, batches: int) -> float:
    """Images per second of `batches` batches."""
    made = workers.ahead(stream, count)
    try:
        first = max(count, 1)
        for step in range(first):
            made.batch(step)
        start = time.perf_counter()
        for step in range(first, first + batches):
            made.batch(step)
        return batches * stream.size / (time.perf_counter() - start)
    finally:
        if count:
            made.close()


def main(argv=None) -> int:
    """The command."""
    parser = errors.Parser(prog="python -m scripts.feed", description=__doc__)
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    parser.add_argument("--workers", nargs="+", type=int, default=[0])
    parser.add_argument("--batches", type=int, default=20)
    options, rest = parser.parse_known_args(argv)
    settings = config.load(options.config)
    arguments.override(settings, rest)
    settings = config.complete(settings).lock()
    stream = images.open_stream(settings, images.parts(settings)["train"])
    table = Table("workers", "images/s", title=f"{options.config}, batches of {stream.size}")
    for count in options.workers:
        table.add_row(str(count), f"{measure(stream, count, options.batches):,.0f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(errors.cleanly(main)())
