"""How entry points answer to a user's mistake: one to three lines and exit status 2, no traceback.

Code anywhere raises a plain `ValueError` (or an `OSError` such as `FileNotFoundError`) whose
message says what was wrong and what was expected; only entry points catch it. What the libraries
below us raise is not a user's mistake and keeps its traceback: after ten hours of training that is
what one needs. `FORMULARY_DEBUG=1` shows every traceback.

An exception with a `status` of its own (see below) ends the process with that.
"""

import argparse
import difflib
import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

DEBUG = "FORMULARY_DEBUG"
LINES, WIDTH = 3, 400
# Exit statuses beside 0 (done, or stopped by a signal), 1 and 2; the numbers are those of sysexits.h.
ANOMALY, SAVE_FAILED, STALLED = 65, 74, 75
_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorstore", "numpy", "scipy"}
_FILES = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# What else a path or a disk may be at fault for: full, read-only, failing, no name of a file.
_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The ending of a message about an unknown name: the closest known one, else up to twelve."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)
    if close:
        return f'did you mean "{close[0]}"?'
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return "known: " + (", ".join(known[:12]) + more if known else "none")


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ValueErrors of one line, without the usage.

    Options are not abbreviated; an unknown one gets the nearest name.
    """

    def __init__(self, **settings):
        shown = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"allow_abbrev": False, "formatter_class": shown, **settings})

    def error(self, message):
        """Raises what the user is told."""
        before, unknown, rest = message.partition("unrecognized arguments: ")
        if unknown and not before:
            name, known = rest.split("=")[0].split()[0], list(self._option_string_actions)
            message = f"unknown argument {name!r}; {nearest(name, known)}"
        raise ValueError(f"{message} (--help shows all)")


def from_library(error: BaseException) -> bool:
    """Whether the exception was raised inside a numerical library, not by us or by Python.

    JAX takes its own frames out of tracebacks and leaves a note: there the last frame left is a
    call of ours, unless it is a `raise` in a function that JAX was tracing.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    if any("JAX has removed" in note for note in getattr(error, "__notes__", ())):
        return not (frames[-1].line or "").startswith("raise")
    parts = Path(frames[-1].filename).parts
    inside = (
        parts[len(parts) - parts[::-1].index("site-packages") :] if "site-packages" in parts else ()
    )
    return bool(inside) and inside[0] in _LIBRARIES


def message(error: BaseException) -> str:
    """The text for the user: at most three lines of at most 400 characters.

    A `KeyError` is unquoted, and a bare missing file becomes a sentence.
    """
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        text = f"{os.fspath(error.filename)!r}: {(error.strerror or 'cannot be used').lower()}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror.lower()
    lines = [line.rstrip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return "\n".join(
        line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines[:LINES]
    )


def is_users(error: BaseException) -> bool:
    """Whether an exception is a mistake in what the user gave: no traceback is owed."""
    if isinstance(error, _FILES) or (isinstance(error, OSError) and error.errno in _DISK):
        return True
    if isinstance(
        error, KeyError
    ):  # a bare key is a bug of ours; a sentence was meant for the user
        return bool(error.args) and " " in str(error.args[0])
    return isinstance(error, ValueError) and not from_library(error)


def status(error: BaseException) -> int:
    """The exit status of an error that is told in words; 0 for one that keeps its traceback."""
    own = getattr(error, "status", 0)
    if own and type(error).__module__.startswith("train."):
        return own
    return 2 if is_users(error) else 0


def cleanly(main: Callable) -> Callable:
    """Wraps an entry point: a user's mistake prints `error: ...` on stderr and exits with status 2.

    Ctrl-C exits with 130, a closed pipe on stdout (`... | head`) quietly with 141. Everything else
    passes through with its traceback, and so does everything if the environment has
    FORMULARY_DEBUG set to something other than 0.

        def main(argv=None) -> int | None: ...
        if __name__ == "__main__":
            sys.exit(cleanly(main)())
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(141) from None
        except KeyboardInterrupt:
            if os.environ.get(DEBUG, "0") not in ("", "0"):
                raise
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            number = status(error)
            if not number or os.environ.get(DEBUG, "0") not in ("", "0"):
                raise
            print(f"error: {message(error)}", file=sys.stderr)
            raise SystemExit(number) from None

    return run
