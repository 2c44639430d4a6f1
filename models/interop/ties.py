"""One table under several names: tied heads, and copies that files keep of it."""

import numpy as np


def embedding(table, o, prefix):
    """Their name of the token table that the head may be tied to."""
    own = "@decoder.embed_tokens.weight" if o.encoder_vocab else table.embedding
    return own.replace("@", prefix)


def copies(table, o, prefix, files, alias):
    """Names under which files may hold the token table of both stacks again, which must be equal.

    A file with nothing but such a copy has its table there: then `alias` gets it, as it gets the
    table for every copy that a file lacks.
    """
    if o.encoder_vocab:
        return ()
    embedding = table.embedding.replace("@", prefix)
    copies = [name.replace("@", prefix) for name in table.copies]
    found = [name for name in copies if name in files]
    if found and alias.get(embedding, embedding) not in files:
        alias[embedding] = found[0]
    kept = alias.get(embedding, embedding)
    alias.update((name, kept) for name in copies if name not in files)
    for name in found:
        if not np.array_equal(files[name], files[kept]):
            raise ValueError(f"{name!r:.80} differs from {kept!r:.80}; both stacks read one table")
    return tuple(name for name in found if name != kept)


def tie(o, table, embedding, files):
    """(options, names to skip, {expected name: name in the file}) for a tied head.

    A tied table may be saved under either name, or twice; saved twice with different values it is
    not tied, whatever the config says, as in the reference library. The bias that BERT's head and its
    decoder share may be there twice as well; the decoder's is the one that is added.
    """
    head, skip, alias = table.head, (), {}
    if table.twin in files:
        alias, skip = {table.bias: table.twin}, (table.bias,)
    if o.head not in ("lm", "double", "masked", "pretrain") or not o.tied or head not in files:
        return o, skip, alias
    if embedding not in files:
        return o, skip, {**alias, embedding: head}
    same = files.shape(head) == files.shape(embedding)
    if same and np.array_equal(files[head], files[embedding]):
        return o, (*skip, head), alias
    return o.replace(tied=False), skip, alias
