"""`python -m tests.chaos.child PHASE ARGS...`: the train command, which stops to be hit in a phase.

It prints PHASE and then waits there: in Python, or in compiled code, where no Python handler runs.
"""

import sys
import time


def announce():
    print("PHASE", flush=True)


def linger(seconds=60):
    """In Python."""
    announce()
    for _ in range(seconds * 100):
        time.sleep(0.01)


def compile_long():
    """In XLA's compiler, for half a minute or more."""
    import jax
    import jax.numpy as jnp

    def chain(x):
        for i in range(700):
            x = jnp.sin(x) * (time.time() + i) + x.T @ x
        return x

    lowered = jax.jit(chain).lower(jnp.ones((8, 8)))
    announce()
    lowered.compile()


def spin():
    """In compiled code: about a minute."""
    import jax
    import jax.numpy as jnp

    def body(i, x):
        return jnp.tanh(x @ x)

    slow = jax.jit(lambda x, n: jax.lax.fori_loop(0, n, body, x))
    x = jnp.eye(256)
    slow(x, 1).block_until_ready()
    began = time.perf_counter()
    slow(x, 50).block_until_ready()
    count = int(60 / max((time.perf_counter() - began) / 50, 1e-6))
    announce()
    slow(x, count).block_until_ready()


def before(module, name, action, at=0):
    """Runs an action before a function's call number `at`."""
    real, calls = getattr(module, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == at + 1:
            action()
        return real(*args, **kwargs)

    setattr(module, name, wrapped)


def prepare(phase):
    from eval import perplexity
    from models import generate
    from train import lm
    from train.core import fit, start

    if phase == "tokenizer":
        before(lm.text, "load_tokenizer", linger)
    elif phase == "data":
        before(lm.text, "open_stream", linger)
    elif phase == "initialisation":
        before(start, "begin", linger)
    elif phase in ("compile", "step", "stall"):
        real = fit.make_step
        action = {"compile": compile_long, "step": lambda: (announce(), time.sleep(2))}.get(
            phase, linger
        )

        def made(*args, **kwargs):
            class Holder:
                step = staticmethod(real(*args, **kwargs))

            before(Holder, "step", action, at=0 if phase == "compile" else 5)
            return lambda *given: Holder.step(*given)

        fit.make_step = made
    elif phase in ("evaluation", "evaluation-compiled"):
        action = spin if phase.endswith("compiled") else linger
        real_build = perplexity.build

        def build(*args, **kwargs):
            run = real_build(*args, **kwargs)
            return lambda variables: (action(), run(variables))[1]

        perplexity.build = build
    elif phase == "sampling":
        before(generate, "generate", linger)


def main():
    phase, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    from train import __main__ as train
    from train.core import preempt

    if phase == "import":
        with preempt.owner() as stopping:
            stopping.begin()
            announce()
            train.command()
    prepare(phase)
    train.command()


if __name__ == "__main__":
    main()
