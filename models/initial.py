"""Standard deviations of the normal distributions that parameters are drawn from.

"normal": `init_std` for all, GPT-2's 1/sqrt(2L) for projections into the residual stream if
`init_residual`. "xavier": Glorot's sqrt(2 / (in + out)) (Glorot and Bengio 2010) and D^-0.5 for
embeddings, as the authors of the Transformer did. "mesh": Mesh TensorFlow's, with which T5 needs no
scaling of scores: (D K)^-0.5 for queries, otherwise in^-0.5, and 1 for embeddings. "he": He's for
convolutions (`models.convolution.deviation`), `init_std` for all else.
"""

import math


def deviation(o, role: str) -> float:
    """The deviation of one kind of parameter.

    role: q, k, v, o, up, gate, down, tokens, head (language), relative, or another linear map of
    width D. Where `o.init` is neither "normal" nor "he", `o.init_std` is a factor.
    """
    if o.init in ("normal", "he"):
        residual = o.init_residual and role in ("o", "down")
        return o.init_std / math.sqrt(2 * o.layers) if residual else o.init_std
    d, inner = o.width, o.heads * o.size
    if o.init == "xavier":
        out = {"q": inner, "k": o.groups * o.size, "v": o.groups * o.size, "o": inner}
        out |= dict.fromkeys(("up", "gate", "down"), o.hidden)
        found = math.sqrt(2 / (d + out[role])) if role in out else d**-0.5
    else:
        own = {"q": d * o.size, "o": inner, "down": o.hidden, "tokens": 1, "head": 1}
        found = own.get(role, d) ** -0.5
    return o.init_std * found
