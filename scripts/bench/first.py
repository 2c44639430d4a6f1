"""Seconds from entering `fit` to the first step's loss on the host: compiled anew, then from the cache.

    python -m scripts.bench.first JOB.json

runs the trainer itself in a process of its own and ends it when the loss of step 1 is logged.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from scripts.bench.lanes import Lane, say


def measure(job: dict, folder: Path) -> dict:
    """{"cold": seconds, "warm": seconds} of one job of `scripts.bench.ours`."""
    found = {}
    environment = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    for name in ("cold", "warm"):
        lane = Lane(
            f"first step, {name}", sys.executable, "scripts.bench.first", job, folder, environment
        )
        with lane:
            found[name] = lane.info["seconds"]
        say(f"first step, {name}: {found[name]:.2f} s after entering fit")
    return found


def watch(workdir: Path, began: float):
    """Waits for the first row of metrics, prints the seconds since `began` and ends the process."""
    path = workdir / "metrics.jsonl"
    while not (path.exists() and path.read_text().strip()):
        time.sleep(0.005)
    row = json.loads(path.read_text().splitlines()[0])
    print(json.dumps({"seconds": row["time"] - began}), flush=True)
    os._exit(0)


def main(path: str):
    """Enters `fit` with the job's task."""
    from scripts.bench.ours import recipe, task
    from train.core import launch
    from train.core.fit import fit

    job = json.loads(Path(path).read_text())
    config = recipe(job)
    launch.prepare(config)
    made = task(config, job)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = answers
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        threading.Thread(target=watch, args=(Path(folder), began), daemon=True).start()
        fit(config, made, folder)


if __name__ == "__main__":
    main(sys.argv[1])
