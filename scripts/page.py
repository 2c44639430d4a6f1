"""Reports as one HTML file each: the frame, tables, and pictures that are held inside."""

import base64
import html
from pathlib import Path

FRAME = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
body{{font:16px/1.55 system-ui,sans-serif;max-width:{width}px;margin:40px auto;padding:0 20px;color:#1f2937}}
h1{{font-size:30px;line-height:1.2;margin-bottom:6px}}h2{{margin-top:44px;font-size:21px}}
.lead{{font-size:18px;color:#4b5563}}img{{max-width:100%;margin:12px 0}}.wide{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}}
td,th{{padding:6px 8px;text-align:right;vertical-align:top;border-bottom:1px solid #e5e7eb}}
td:first-child,th:first-child,.text td,.text th{{text-align:left}}
th{{color:#6b7280;font-weight:600}}tr.best td{{font-weight:600}}code{{background:#f3f4f6;padding:1px 5px;
border-radius:4px}}li{{margin:6px 0}}footer{{margin:50px 0 20px;color:#6b7280;font-size:13px}}
</style><h1>{title}</h1><p class="lead">{lead}</p>{body}<footer>{foot}</footer></html>
"""


def write(path, title: str, lead: str, body, foot: str, width: int = 920) -> Path:
    """Writes a page of the parts in `body`, HTML as they are; the title is escaped. Returns its path."""
    words = dict(title=html.escape(title), lead=lead, body="\n".join(body), foot=foot, width=width)
    Path(path).write_text(FRAME.format(**words), encoding="utf-8")
    return Path(path)


def table(rows, best: int = -1, text: bool = False) -> str:
    """Rows of cells, the first row their names; line `best` of the others stands out; `text` is set left."""
    cells = lambda row, tag: "".join(f"<{tag}>{html.escape(str(x))}</{tag}>" for x in row)
    body = "".join(
        f"<tr{' class=best' if n == best else ''}>{cells(row, 'td')}</tr>"
        for n, row in enumerate(rows[1:])
    )
    inner = f"<table><tr>{cells(rows[0], 'th')}</tr>{body}</table>"
    return f'<div class="wide{" text" if text else ""}">{inner}</div>'


def image(path, words: str) -> str:
    """An <img> with the PNG inside, so that the page is one file."""
    raw = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{raw}">'
