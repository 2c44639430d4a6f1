"""Benchmarks: `python -m scripts.bench NAME --help`. Each is a module beside this one.

    python -m scripts.bench shakespeare --against torch --minutes 3 --torch_python PATH

A benchmark module has HELP, `arguments(parser)` and `run(args) -> exit status`; COMMANDS names it.
Timings live here and are never asserted in a test.
"""

import sys

from scripts import bench_decode, bench_shakespeare, bench_train
from train.core.errors import Parser, cleanly

COMMANDS = {"shakespeare": bench_shakespeare, "train": bench_train, "decode": bench_decode}


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
