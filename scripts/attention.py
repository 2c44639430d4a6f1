"""Draws where a model looks: the attention maps of any of our models, as a PNG.

    python -m scripts.attention --from runs/shakespeare --text "To be, or not to be" --out maps.png
    python -m scripts.attention --from runs/transformer --text "And he went forth." --target "He went out."
    python -m scripts.attention --from runs/vit --image cat.png --query 98

`--from` is a run of ours, a reference folder, GGUF, or what else `scripts.convert` reads. Of a text,
each panel is one head of one layer: rows look at columns, dark is much. `--layer` names the layers
(-1: the last; default: all, the mean of their heads), `--heads` draws each head of them. An
encoder-decoder takes `--target` as well and `--which encoder`, `decoder` or `cross` (the default).

Of an image, what the token that classifies takes of each patch is laid over it, or, with `--query`, what
that patch takes (counted along rows from 0); for Swin, whose patches look around themselves alone, the
middle patch if none is named. `--rollout` multiplies the layers (Abnar and Zuidema 2020); not for Swin.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from eval import attention
from models import interop
from models.build import IMAGES, build
from scripts import classify_image, convert
from train.core import checkpoint
from train.core.errors import Parser, cleanly
from train.data import encode as rows
from train.data import pairs
from train.data.tokenizer import Tokenizer

MOST = 96  # tokens whose names are still read
WIDE = 24  # panels


def open_source(path: str) -> tuple:
    """(options, variables, tokenizer or None) of a run or of what the reference libraries write."""
    if Path(path).is_dir() and not convert.is_reference(Path(path)):
        _, model, variables, tokenizer = checkpoint.load_run(path)
        return model.o, variables, tokenizer
    loaded = convert.source(path)
    tokenizer = loaded.tokenizer
    if tokenizer is not None:
        tokenizer = Tokenizer.wrap(tokenizer, "file", **loaded.special)
    return loaded.options, loaded.variables, tokenizer


def maps(o, variables, batch) -> dict:
    """The collection `maps` of one forward pass."""
    o = o.replace(scan=False, attend="explicit", remat="none")
    model = build(o)
    known = set(jax.eval_shape(model.init, jax.random.key(0), batch))
    given = {name: value for name, value in variables.items() if name in known | {"params"}}
    _, found = jax.jit(lambda v, b: model.apply(v, b, mutable=["maps"]))(given, batch)
    if "maps" not in found:
        raise ValueError(f"a {o.kind} has no attention to draw")
    return jax.device_get(found["maps"])


def text(o, variables, tokenizer, source: str, target: str, which: str) -> tuple:
    """(weights [L,H,T,S], names of the rows, names of the columns) of a text, or of two."""
    if tokenizer is None:
        raise ValueError("the source has no tokenizer; maps of a text need one")
    encode = lambda words: list(tokenizer.encode_batch([words], special=False)[0])
    name = lambda ids: [_shown(tokenizer.decode([i]).strip(), i) for i in map(int, ids)]
    ids = encode(source)
    if o.kind == "encdec" and tokenizer.eos >= 0:
        ids = [*pairs.front(tokenizer), *ids, tokenizer.eos]
    if o.kind == "encoder":
        framed = rows.texts([source], tokenizer, o.context, True, "classify").batches(1)[0]
        ids = list(framed["tokens"][0][framed["mask"][0] > 0])
    if not ids or len(ids) > o.context:
        raise ValueError(f"--text has {len(ids)} tokens; the model reads 1 to {o.context}")
    batch = {"tokens": np.asarray([ids], np.int32)}
    if o.kind != "encdec":
        if o.cross:
            raise ValueError("this decoder reads another model's states; draw its encoder-decoder")
        return np.asarray(maps(o, variables, batch)["attn"])[:, 0], name(ids), name(ids)
    if not target:
        raise ValueError("an encoder-decoder needs --target, the text that the decoder reads")
    mine = [o.start, *pairs.front(tokenizer), *encode(target)]
    batch["decoder_tokens"] = np.asarray([mine], np.int32)
    found = maps(o, variables, batch)
    weights = found["encoder"]["attn"] if which == "encoder" else None
    if weights is None:
        weights = found["decoder"]["cross" if which == "cross" else "attn"]
    ours, theirs = ["(start)", *name(mine[1:])], name(ids)
    down, along = theirs if which == "encoder" else ours, ours if which == "decoder" else theirs
    return np.asarray(weights)[:, 0], down, along


def _shown(token: str, number: int) -> str:
    return token if token and token.isprintable() else f"#{number}"


def image(loaded: interop.Loaded, path: str, query: int, rollout: bool) -> tuple:
    """([panels,rows,columns] of weights, their titles, the picture [H,W,C] of 0 to 255)."""
    o = loaded.options
    if o.channels not in (1, 3):
        raise ValueError(f"the model reads {o.channels} channels; pictures have 3, or 1 in grey")
    picture = classify_image.photograph(path, o.image_size, 1.0, o.channels)
    mean, std = classify_image.scale(loaded)
    pixels = (picture - np.float32(mean)) / np.float32(std)
    batch = {"images": pixels[None].astype(np.float32)}
    found = maps(o, loaded.variables, batch)["attn"]
    if o.kind == "swin":
        if rollout:
            raise ValueError("--rollout needs one grid for all layers; Swin has one a stage")
        blocks = attention.unwindowed(o, found, pixels.shape[:2])
        panels = [_around(block[0].mean(0), query, blocks[0].shape[2:4]) for block in blocks]
        return panels, [f"block {n}" for n in range(len(panels))], picture
    grid = tuple(n // s for n, s in zip(pixels.shape[:2], o.patch_sides, strict=True))
    row = o.prefix + query if query >= 0 else 0
    if query < 0 and not o.prefix:
        raise ValueError("this model has no token that classifies; name a patch with --query")
    if not query < grid[0] * grid[1]:
        raise ValueError(f"--query is {query}; there are {grid[0] * grid[1]} patches, from 0 on")
    if rollout:
        whole = attention.rollout(found)[0, row, o.prefix :].reshape(grid)
        return [whole], ["all layers"], picture
    weights = attention.on_grid(o, found, grid)[:, 0, :, row]
    return list(weights.mean(1)), [f"layer {n}" for n in range(len(weights))], picture


def _around(block, query: int, first: tuple):
    """What one patch takes of the others: `query` counts the first stage's patches."""
    rows, columns = block.shape[:2]
    query = query if query >= 0 else first[0] // 2 * first[1] + first[1] // 2
    if query >= first[0] * first[1]:
        raise ValueError(f"--query is {query}; there are {first[0] * first[1]} patches, from 0 on")
    row, column = divmod(query, first[1])
    return block[row * rows // first[0], column * columns // first[1]]


def draw_text(weights, rows, columns, out, layers=(), heads=False):
    """Panels of [T,S]: the mean over heads of each layer, or each head of the layers."""
    count = len(weights)
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(f"--layer names {layer}; there are {count}, from 0 on")
    chosen = [layer % count for layer in layers] or list(range(count))
    if heads:
        panels = [
            (f"layer {n} head {h}", weights[n, h]) for n in chosen for h in range(weights.shape[1])
        ]
    else:
        panels = [(f"layer {n}", weights[n].mean(0)) for n in chosen]
    figure, axes = _figure(len(panels), len(columns), len(rows))
    for (title, panel), axis in zip(panels, axes, strict=False):
        axis.imshow(panel, cmap="Blues", vmin=0, vmax=max(float(panel.max()), 1e-9), aspect="auto")
        axis.set_title(title, fontsize=9)
        if max(len(rows), len(columns)) <= MOST:
            axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
            axis.set_yticks(range(len(rows)), rows, fontsize=7)
    figure.savefig(out)


def draw_image(panels, titles, picture, out):
    """The picture, then each panel laid over it, scaled to its own largest weight."""
    figure, axes = _figure(len(panels) + 1, 14, 14)
    high, wide = picture.shape[:2]
    shown = picture.astype(np.uint8).squeeze()
    for number, axis in enumerate(axes[: len(panels) + 1]):
        axis.imshow(shown, cmap="gray", extent=(0, wide, high, 0))
        axis.set_axis_off()
        if number:
            axis.imshow(panels[number - 1], cmap="inferno", alpha=0.65, extent=(0, wide, high, 0))
            axis.set_title(titles[number - 1], fontsize=9)
    figure.savefig(out)


def _figure(count: int, wide: int, high: int):
    """(figure, axes that are used) with room for `count` panels of that many columns and rows."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('drawing needs matplotlib: pip install -e ".[plots]"') from None
    if count > WIDE * WIDE:
        raise ValueError(f"{count} panels are too many for one picture; name some with --layer")
    across = min(count, 4 if count <= 16 else 8)
    down = -(-count // across)
    size = [min(max(2.2, 0.16 * n + 0.8), 12) for n in (wide, high)]
    figure = Figure(figsize=(across * size[0], down * size[1] + 0.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _refuse(args):
    """ValueError for options that would do nothing."""
    if args.image:
        idle = [
            name for name in ("text", "target", "which", "layer", "heads") if getattr(args, name)
        ]
        if idle:
            raise ValueError(
                f"--{idle[0]} is for a text; an image is drawn with all layers, heads averaged"
            )
        if args.query is not None and args.query < 0:
            raise ValueError(f"--query is {args.query}; patches are counted from 0 on")
        return
    if args.query is not None or args.rollout:
        name = "rollout" if args.query is None else "query"
        raise ValueError(f"--{name} is for an image, and --image names none")


def main(argv=None) -> int:
    parser = Parser(prog="python -m scripts.attention", description=__doc__.split("\n")[0])
    parser.add_argument("--from", dest="source", required=True, help="a run, folder or file")
    parser.add_argument("--text", default="", help="what a model of text reads")
    parser.add_argument("--target", default="", help="what the decoder of two stacks reads")
    parser.add_argument("--which", choices=("encoder", "decoder", "cross"), help="default: cross")
    parser.add_argument("--image", default="", help="what a model of images reads")
    parser.add_argument("--query", type=int, help="a patch (default: what classifies)")
    parser.add_argument("--rollout", action="store_true", help="through all layers")
    parser.add_argument("--layer", type=int, nargs="+", default=[], help="layers of a text")
    parser.add_argument("--heads", action="store_true", help="each head of a text apart")
    parser.add_argument("--out", default="maps.png", help="the picture (default: maps.png)")
    args = parser.parse_args(argv)
    _refuse(args)
    if args.image:
        loaded = convert.source(args.source)
        if loaded.options.kind not in IMAGES:
            raise ValueError(f"a {loaded.options.kind} reads text; give it with --text")
        query = -1 if args.query is None else args.query
        drawn = image(loaded, args.image, query, args.rollout)
        draw_image(*drawn, args.out)
        count = len(drawn[0])
    else:
        o, variables, tokenizer = open_source(args.source)
        if o.kind in IMAGES:
            raise ValueError(f"a {o.kind} reads images; give one with --image")
        if not args.text:
            raise ValueError(f"a {o.kind} reads text; give it with --text")
        idle = [name for name in ("target", "which") if getattr(args, name)]
        if idle and o.kind != "encdec":
            raise ValueError(f"--{idle[0]} is for an encoder-decoder; this is a model of one stack")
        drawn = text(o, variables, tokenizer, args.text, args.target, args.which or "cross")
        draw_text(*drawn, args.out, args.layer, args.heads)
        count = len(drawn[0])
    print(f"{args.out}: attention of {count} layers of {args.source}")
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
