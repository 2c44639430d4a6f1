"""Sets up JAX before the first device is touched: compilation cache, processes of a cluster.

With several processes it also decides how one of them leaves when something went wrong: at once and
with its reason. Left alone, a process that fails waits minutes for the others at JAX's shutdown
barrier, and the others wait for it in a collective operation.
"""

import contextlib
import importlib
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from train.core import errors, validate
from train.core.errors import nearest

CACHE = "JAX_COMPILATION_CACHE_DIR"
DIST = {  # a launcher's way to say what config.dist says, and how many processes share the machine
    name: f"FORMULARY_{name.upper()}"
    for name in ("coordinator", "processes", "process", "heartbeat", "local")
}
LOST = errors.STALLED  # exit status of a process that lost another: start the run again
_LINGER = 1.5  # seconds that the coordinator outlives its own mistake, for the others to say theirs
_GONE = (  # how collective operations and the coordinator report a process that is not there
    "Gloo", "Connection reset by peer", "Connection closed by peer", "heartbeat timeout",
    "coordination service", "CoordinationService", "Broken pipe", "Barrier",
)  # fmt: skip
_TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


def cache_folder(environ: Mapping = os.environ) -> Path:
    """Where compiled programs are kept: where jax's variable says, else the user's cache."""
    if environ.get(CACHE):
        return Path(environ[CACHE])
    home = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "formulary" / "xla"


def prepare(config) -> None:
    """The persistent compilation cache, and `jax.distributed.initialize` where there is a cluster.

    JAX_ENABLE_COMPILATION_CACHE=false switches the cache off, JAX_COMPILATION_CACHE_DIR moves it; a
    folder that cannot be written is done without. ValueError for an address without a port, and for
    a mesh or batches that do not fit the devices.
    """
    import jax

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if usable:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    options = cluster(config.get("dist", {}), os.environ)
    if options is not None:
        jax.distributed.initialize(**options)
    from train.core import shard

    mesh = shard.mesh(config.mesh)
    for _, _, batch in validate.shapes(config):
        shard.check_batch(batch, config.micro, mesh)


def cluster(dist: Mapping, environ: Mapping) -> dict | None:
    """Arguments for `jax.distributed.initialize`, {} to let it find the cluster, None for one host.

    `dist` has `coordinator` (host:port), `processes`, `process` (this one's number) and `heartbeat`
    (seconds after which a silent process counts as lost, at most twice as long until the others
    end); the variables of DIST say the same. A named coordinator listens on its own address and
    not, as is JAX's default, on all interfaces. ValueError for what cannot be.
    """
    dist = {**dist, **_told(environ)}
    address, beat = dist.get("coordinator", ""), dist.get("heartbeat", 60)
    patience = dict(heartbeat_timeout_seconds=beat, shutdown_timeout_seconds=beat)
    if address:
        if not re.fullmatch(r"[^\s/]+:\d+", address):
            raise ValueError(f'config.dist.coordinator is "{address}"; expected host:port')
        processes, process = dist.get("processes", 0), dist.get("process", -1)
        if processes < 1 or not 0 <= process < processes:
            raise ValueError(
                f"config.dist has processes={processes} and process={process}; "
                "expected 0 <= process < processes"
            )
        return dict(
            coordinator_address=address,
            num_processes=processes,
            process_id=process,
            coordinator_bind_address=address if process == 0 else None,
            **patience,
        )
    slurm = {"SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST"} <= set(environ)
    hosts = next((environ[name] for name in _TPU_HOSTS if environ.get(name)), "")
    found = (
        (slurm and int(environ.get("SLURM_NTASKS", 1)) > 1)
        or ("OMPI_MCA_orte_hnp_uri" in environ and int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1)
        or len(hosts.split(",")) > 1
        or bool(environ.get("JAX_COORDINATOR_ADDRESS"))
    )
    return patience if found else None


def _told(environ: Mapping) -> dict:
    """What a launcher says of the processes, by the names of config.dist."""
    found = {name: environ[key] for name, key in DIST.items() if environ.get(key)}
    wrong = next((n for n, x in found.items() if n != "coordinator" and not x.isdecimal()), None)
    if wrong:
        raise ValueError(f"{DIST[wrong]} is {found[wrong]!r}; expected a number")
    return {name: x if name == "coordinator" else int(x) for name, x in found.items()}


@contextlib.contextmanager
def together():
    """Wraps the work of one of several processes: whatever ends it badly ends it at once.

    A user's mistake is said as everywhere (status 2), a lost process in one line (status LOST),
    anything else with its traceback (status 1). With one process nothing is different.
    """
    try:
        yield
    except BaseException as error:
        import jax

        if jax.process_count() == 1 or isinstance(error, SystemExit):
            raise
        text, status = leaving(error)
        print(text, file=sys.stderr, flush=True)
        sys.stdout.flush()
        if jax.process_index() == 0 and status != LOST:
            time.sleep(_LINGER)
        os._exit(status)


@contextlib.contextmanager
def alone(workdir):
    """Holds a run's folder; ValueError where another process does. A process that dies lets go of it.

    Two runs in one folder would clear away each other's saves. Where the file system has no locks (or
    the system has none) there is nothing to hold.
    """
    if fcntl is None or not first():
        yield
        return
    held = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ValueError(
            f"another process trains in {workdir}\nwait for it, end it, or use another --workdir"
        ) from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(held)


def leaving(error: BaseException) -> tuple[str, int]:
    """(what one of several processes says of an error that ends it, its exit status)."""
    status = errors.status(error)
    if status:
        return f"error: {errors.message(error)}", status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    text = str(error)
    if any(word in text for word in _GONE):
        return (
            "error: another process of this run is gone, and this one ends with it\n"
            "start the run again: it goes on from the last checkpoint",
            LOST,
        )
    return "".join(traceback.format_exception(error)).rstrip(), 1


def first() -> bool:
    """Whether this process speaks for all."""
    import jax

    return jax.process_index() == 0


def loop(name: str):
    """The module of the loop that a config names; ValueError with the nearest name otherwise.

    A loop is a module of `train` with `run(config, workdir)`, which trains, and `check(config) ->
    (Plan, first batch)`, which builds everything for `--check` and allocates nothing.
    """
    known = validate.loops()
    if name not in known:
        raise ValueError(f'config.loop is "{name}"; {nearest(name, known)}')
    return importlib.import_module(f"train.{name}")


def describe() -> str:
    """One line about the devices that this run has."""
    import jax

    first, count = jax.devices()[0], jax.device_count()
    processes = jax.process_count()
    where = f" in {processes} processes" if processes > 1 else ""
    return f"{count} x {first.device_kind} ({first.platform}){where}"
