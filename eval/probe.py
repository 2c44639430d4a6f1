"""How good frozen features are: nearest neighbours and a linear classifier on top of them.

k-NN votes by exp(cosine / 0.07) among the k nearest training pictures (Wu et al. 2018, section 3.4);
the linear probe is multinomial logistic regression on standardised features, trained to convergence by
L-BFGS with an L2 penalty. Neither sees a held-out label before it is scored.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eval import classify, images
from models.likelihood import pick


def features(model, variables, batches, place=None) -> tuple[np.ndarray, np.ndarray]:
    """(pooled states float32 [N,D], targets [N]) of all pictures that count."""

    @jax.jit
    def pooled(variables, batch):
        given = {"images": batch["images"]}
        x, _ = model.apply(variables, given, method="features")
        return model.apply(variables, x, given, method="pooled").astype(jnp.float32)

    targets = []
    found = classify.collect(pooled, variables, images.noted(batches, targets), place)
    return found, np.concatenate(targets)


def neighbours(train, held, k: int = 20, temperature: float = 0.07, chunk: int = 1024) -> float:
    """The accuracy of the k nearest neighbours' weighted vote; (features, targets) twice."""
    (x, labels), (queries, gold) = train, held
    k, classes = min(k, len(x)), int(max(labels.max(), gold.max())) + 1
    unit = lambda a: a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    x, labels = jnp.asarray(unit(x)), jnp.asarray(labels)

    @jax.jit
    def vote(rows):
        near, index = jax.lax.top_k(rows @ x.T, k)
        weights = jnp.exp((near - near[:, :1]) / temperature)
        return jnp.einsum("bk,bkc->bc", weights, jax.nn.one_hot(labels[index], classes)).argmax(1)

    guess = [np.asarray(vote(unit(queries[i : i + chunk]))) for i in range(0, len(queries), chunk)]
    return float(np.mean(np.concatenate(guess) == gold))


def linear(train, held, penalty: float = 1e-4, steps: int = 200) -> float:
    """The accuracy of logistic regression trained on the first and scored on the second."""
    (x, labels), (queries, gold) = train, held
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, queries = ((a - mean) / deviation for a in (x, queries))
    x, labels = jnp.asarray(x), jnp.asarray(labels)
    classes = int(max(labels.max(), gold.max())) + 1

    def loss(w):
        nats = -pick(x @ w["kernel"] + w["bias"], labels).mean()
        return nats + penalty * jnp.sum(w["kernel"] ** 2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def step(carry, _):
        w, state = carry
        value, grad = value_and_grad(w, state=state)
        updates, state = solver.update(grad, state, w, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(w, updates), state), value

    first = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros((classes,))}
    (w, _), _ = jax.lax.scan(step, (first, solver.init(first)), None, length=steps)
    guess = np.asarray(queries @ w["kernel"] + w["bias"]).argmax(1)
    return float(np.mean(guess == gold))
