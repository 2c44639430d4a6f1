"""A labeller that is a program, at the labelling page: its judgements go in by keyboard, the export comes out."""

import threading

from scripts.label import browser
from scripts.label import server as label_server
from scripts.label import store as label_store


def labelled(path, rows, every: int = 100) -> list:
    """Rankings [{"prompt", "answers", "ranks"}] as the page exports them after a whole session.

    The page is served on loopback, its answers are read off as they are shown, shuffled, and each is given
    its row's rank. Judgements are kept in the file `path`, so that a session goes on where it stopped;
    ValueError where two rows are one item. Progress is printed `every` items.
    """
    items = [
        {"id": label_store.identity(row["prompt"], row["answers"]), **row, "ranks": None}
        for row in rows
    ]
    wanted = {
        (row["prompt"], frozenset(row["answers"])): dict(
            zip(row["answers"], row["ranks"], strict=True)
        )
        for row in rows
    }
    if len(wanted) != len(rows):
        raise ValueError("two rows are about the same answers, which a page cannot tell apart")
    store = label_store.Store(path, items)
    server = label_server.serve(store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        with browser.Page(address, "program") as page:
            while not page.finished():
                prompt, answers = page.shown()
                ranks = wanted[prompt, frozenset(answers)]
                page.rank([ranks[text] for text in answers])
                if (kept := len(store.records())) % every == 0:
                    print(f"{kept} of {len(rows)} labelled", flush=True)
    finally:
        server.shutdown()
        server.server_close()
    return label_store.rankings(store.records())
