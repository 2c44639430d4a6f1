"""BENCHMARKS.md: one summary of all families, then each part with its command and device."""

from pathlib import Path

from scripts.bench import decode, lengths, linen, rollout, scaling, tables

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TABLES = {
    "train": tables.train,
    "decode": decode.table,
    "rollout": rollout.table,
    "linen": linen.table,
    "scaling": scaling.table,
    "lengths": lengths.table,
}
NEW = f"""# Benchmarks

{BEGIN}
{END}
"""


def write(path, results: dict):
    """Puts the results between the markers of the page. ValueError if the page lacks a marker."""
    path = Path(path)
    text = path.read_text() if path.exists() else NEW
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} needs the lines {BEGIN} and {END}, in this order")
    path.write_text(f"{before}{BEGIN}\n\n{body(results, path.parent)}\n\n{END}{after}")


def body(results: dict, root: Path = Path(".")) -> str:
    """Everything between the markers."""
    if not results:
        return "Nothing has been measured yet."
    parts = [summary(results)]
    for name, result in results.items():
        lines = [f"## {name}", f"    {result['command']}", told(result["device"])]
        lines.append(TABLES[result["bench"]](result))
        if result.get("figure"):
            lines.append(f"![{name}]({result['figure']})")
        parts.append("\n\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def told(device: dict) -> str:
    """One line about the machine, the versions and the day."""
    versions = ", ".join(f"{name} {number}" for name, number in device["versions"].items())
    return (
        f"{device['processor']}, {device['memory'] / 2**30:.0f} GiB, {device['system']}, "
        f"Python {device['python']}, {versions}; {device['date']}."
    )


def summary(results: dict) -> str:
    """A row a training benchmark that has a peer: family, size, ours, ratios, memory, share."""
    found = [
        r for r in results.values()
        if r["bench"] == "train" and any(s["side"] != "formulary" for s in r["sides"])
    ]  # fmt: skip
    if not found:
        return ""
    names = list(
        dict.fromkeys(s["name"] for r in found for s in r["sides"] if s["side"] != "formulary")
    )
    rows = []
    for r in found:
        metric = "cpu" if r["threads"] == 1 else "wall"
        own = next(s for s in r["sides"] if s["side"] == "formulary")
        sides = {s["name"]: s for s in r["sides"]}
        cells = []
        for name in names:
            if name not in sides:
                cells.append("")
                continue
            mine, theirs = (tables.as_rows(s, metric) for s in (own, sides[name]))
            cells.append(f"{tables.ratios(mine, theirs, metric)['ratio']:.2f}")
        what = tables.measured(r)
        rows.append([
            f"{r['family']} {r['size']}", f"{r['batch']} x {r['length']}", what,
            f"{tables.median_of(own, metric):.3f}", *cells, f"{own['peak'] / 1e9:.2f}",
            tables.share(r, own, metric),
        ])  # fmt: skip
    head = ["training step", "tokens", "measured", "ours, s", *names, "peak GB", "share of peak"]
    text = (
        "Ratios are the peer's seconds over ours: above 1, ours is faster. Float32 on all sides "
        "unless a column says otherwise."
    )
    return f"## Training\n\n{text}\n\n{tables.grid(head, rows)}"
