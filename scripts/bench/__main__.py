"""Benchmarks: `python -m scripts.bench NAME --help`. Each is a module beside this one.

    python -m scripts.bench train --size 12m --against transformers nanogpt --torch_python PATH
    python -m scripts.bench all --list

A benchmark module has HELP, `arguments(parser)` and `run(args) -> exit status`; COMMANDS names it.
Timings live here and are never asserted in a test.
"""

import sys

from scripts.bench import decode, lengths, linen, rollout, scaling, shakespeare, suite, translate
from scripts.bench import train as bench_train
from train.core.errors import Parser, cleanly

COMMANDS = {
    "train": bench_train,
    "decode": decode,
    "rollout": rollout,
    "scaling": scaling,
    "lengths": lengths,
    "linen": linen,
    "shakespeare": shakespeare,
    "translate": translate,
    "all": suite,
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
