"""Reads a profiler's trace and XLA's dumped programs, and joins the two by operation.

A trace's events carry the name of the operation (`hlo_op`) and of its program (`hlo_module`); the
program's text says what the operation is, which computation it calls and, as `op_name`, the path of
the module and primitive that it came from.
"""

import re
from pathlib import Path

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\s*$")
CALLS = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
OUTER = ("while", "conditional", "call")  # their time is that of the operations inside
MOVES = {"copy", "transpose", "bitcast", "slice", "concatenate", "dynamic-slice", "pad", "reverse",
         "dynamic-update-slice", "parameter", "tuple", "broadcast", "reshape"}  # fmt: skip
LOOKUPS = {"gather", "scatter"}


def programs(folder: Path) -> dict:
    """{module: {operation: {opcode, shape, path, inside}}} of the optimised programs in a folder.

    `inside` is the set of opcodes of the computation that a fusion or call calls.
    """
    found = {}
    for path in sorted(Path(folder).glob("*after_optimizations.txt")):
        name = path.name.split(".")[1]
        found.setdefault(name, {}).update(parse(path.read_text()))
    return found


def parse(text: str) -> dict:
    """{operation: what it is} of one program's text, those of called computations included."""
    rows, bodies, current = {}, {}, ""
    for line in text.splitlines():
        begin = COMPUTATION.match(line)
        if begin:
            current = begin[1]
            continue
        hit = INSTRUCTION.match(line)
        if not hit:
            continue
        name, shape, opcode = hit.groups()
        bodies.setdefault(current, set()).add(opcode)
        op_name = OP_NAME.search(line)
        rows[name] = {
            "opcode": opcode,
            "shape": re.sub(r"\{[^}]*\}", "", shape)[:60],
            "path": op_name[1] if op_name else "",
            "calls": CALLS.findall(line),
            "library": "kind=kCustom" in line or opcode == "custom-call",
        }
    for row in rows.values():
        row["inside"] = set().union(*(bodies.get(name, set()) for name in row.pop("calls")))
    return rows


def events(folder: Path) -> list:
    """(module, operation, nanoseconds) of every operation in the newest trace of a folder.

    An operation may go on in other threads after the event that started it: the event named "end:"
    then marks its end, and carries the number that the first one gave.
    """
    import jax

    paths = sorted(Path(folder).rglob("*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    if not paths:
        raise ValueError(f"{folder} holds no trace (*.xplane.pb)")
    begun, ends, found = [], {}, []
    for plane in jax.profiler.ProfileData.from_file(str(paths[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name.startswith("end: "):
                    number = dict(event.stats).get("_c")
                    ends[number] = event.start_ns + event.duration_ns
                    continue
                if event.name.startswith(("$", "Thread", "Thunk")):
                    continue
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    begun.append((stats, event.start_ns, event.duration_ns))
    for stats, start, duration in begun:
        end = max(start + duration, ends.get(stats.get("_p"), 0))
        found.append((stats.get("hlo_module", ""), stats["hlo_op"], end - start))
    return found


def join(found: list, known: dict, steps: int) -> list:
    """One row an operation, the longest first: name, kind, place, shape, count and ms of a step."""
    rows = {}
    for module, name, nanoseconds in found:
        what = known.get(module, {}).get(name)
        if what and what["opcode"] in OUTER:
            continue
        row = rows.setdefault((module, name), {"ns": 0.0, "count": 0, "what": what})
        row["ns"], row["count"] = row["ns"] + nanoseconds, row["count"] + 1
    made = []
    for (module, name), row in rows.items():
        what = row["what"] or {"shape": "", "path": ""}
        made.append(
            {
                "name": name,
                "module": module,
                "kind": kind(row["what"]),
                "place": place(what["path"]),
                "path": what["path"],
                "shape": what["shape"],
                "count": row["count"] / steps,
                "ms": row["ns"] / steps / 1e6,
            }
        )
    return sorted(made, key=lambda row: -row["ms"])


def kind(what: dict | None) -> str:
    """What sort of work an operation is."""
    if what is None:
        return "unknown"
    codes = what["inside"] | {what["opcode"]}
    where = "in the library" if what["library"] else "outside of it"
    if codes & {"dot", "ragged-dot"}:
        return f"products {where}"
    if "convolution" in codes:
        return f"convolutions {where}"
    if what["opcode"] == "custom-call":
        return "library calls"
    if codes & {"reduce", "reduce-window"}:
        return f"reductions {where}"
    if codes & {"sort", "topk"}:
        return "sorting"
    if codes & LOOKUPS:
        return "gathers and scatters"
    if what["opcode"] == "fusion":
        rest = codes - MOVES - {"fusion", "constant", "iota", "convert"}
        return "elementwise fusions" if rest else "copies and casts"
    return "copies and casts" if what["opcode"] in MOVES | {"convert"} else "elementwise, apart"


def place(path: str) -> str:
    """The module's path with layers pooled, and the direction, of an operation's `op_name`."""
    if not path:
        return "(no name)"
    way = "backward" if "transpose(" in path else "forward" if "jvp(" in path else ""
    way = "forward again" if "rematted" in path else way
    text = re.sub(r"^jit\(\w+\)/?", "", path)
    text = re.sub(r"checkpoint/|rematted_computation/", "", text)
    while (plain := re.sub(r"(?:transpose|jvp|jit|vmap)\(([^()]*)\)", r"\1", text)) != text:
        text = plain
    # `models.transformer`'s, which layers share
    text = re.sub(r"/layer/(?:Checkpoint)?Block/", "/*/", text)
    parts = [part for part in text.split("/") if part and "->" not in part]
    parts = ["*" if part.isdigit() else part for part in parts]
    kept = "/".join(parts[:-1]) or parts[-1] if parts else "(no name)"
    return f"{kept} {way}".strip()
