"""Rows of what only an optional package reads: Parquet files and data sets of the hub."""

from collections.abc import Iterator


def parquet(path, names=()) -> Iterator[dict]:
    """The rows of a Parquet file in order; with `names` only those of its columns.

    ValueError where pyarrow is missing, or the file is damaged.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            f"{path}: Parquet needs the package pyarrow, which is missing: pip install pyarrow"
        ) from error
    try:
        file = ParquetFile(path)
        wanted = [c for c in file.schema_arrow.names if c in names] if names else None
        for batch in file.iter_batches(256, columns=wanted):
            yield from batch.to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error


def hub(source: str, **options) -> Iterator[dict]:
    """The rows of hub:OWNER/NAME[:CONFIG[:SPLIT...]]; offline, whatever the library has cached.

    options: further arguments of `datasets.load_dataset`. ValueError where the extra `hub` is missing,
    or the data set cannot be had.
    """
    name, config, split = (source.split(":")[1:] + ["", ""])[:3]
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{source}: a hub data set needs the extra hub: pip install -e '.[hub]'"
        ) from error
    try:
        for row in datasets.load_dataset(name, config or None, split=split or "train", **options):
            yield dict(row)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"{source} cannot be loaded ({type(error).__name__}: {reason}).\n"
            "Offline? Download it elsewhere as JSONL or Parquet and give its path instead."
        ) from error
