"""Reference checkpoints <-> our tree: `interop.load(path)` and `interop.export(folder, ...)`."""

from models.interop.hf import Loaded, export, load, options, told

__all__ = ["Loaded", "export", "load", "options", "told"]
