"""Benchmarks: `python -m scripts.bench NAME --help`. Each is a module beside this one.

    python -m scripts.bench train --size 12m --against transformers nanogpt --torch_python PATH
    python -m scripts.bench all --list

A benchmark module has HELP, `arguments(parser)` and `run(args) -> exit status`; COMMANDS names it.
Timings live here and are never asserted in a test.
"""

import sys

from scripts import (
    bench_all,
    bench_decode,
    bench_lengths,
    bench_linen,
    bench_rollout,
    bench_scaling,
    bench_shakespeare,
    bench_train,
)
from train.core.errors import Parser, cleanly

COMMANDS = {
    "train": bench_train,
    "decode": bench_decode,
    "rollout": bench_rollout,
    "scaling": bench_scaling,
    "lengths": bench_lengths,
    "linen": bench_linen,
    "shakespeare": bench_shakespeare,
    "all": bench_all,
}


@cleanly
def main(argv=None) -> int:
    """Runs the benchmark that the first argument names."""
    parser = Parser(prog="python -m scripts.bench")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.arguments(command)
    args = parser.parse_args(argv)
    return COMMANDS[args.command].run(args)


if __name__ == "__main__":
    sys.exit(main())
