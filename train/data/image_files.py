"""Readers of files that hold many pictures: IDX, Parquet, ArrayRecord, and the hub's data sets.

Each gives (raw, labels, class names): `raw(i)` the bytes of picture i, labels as they are written. A
row that cannot be read is a BadImage that names file and row; files whose labels cannot, a ValueError.
"""

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np

from train.data import records
from train.data.decode import BadImage

IMAGE = ("image", "img", "image/encoded", "jpg", "png")
LABEL = ("label", "labels", "image/class/label", "fine_label", "target", "cls")
PARTS = {"train": "train", "validation": "valid", "valid": "valid", "val": "valid", "test": "valid"}


def idx(folder, name) -> np.ndarray | None:
    """The array of an IDX file (LeCun's format: magic, sizes, uint8), or None if there is none."""
    found = sorted(Path(folder).glob(f"{name}-idx*-ubyte*"))
    if not found:
        return None
    path = found[0]
    try:
        raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
        if raw[:3] != b"\x00\x00\x08":
            raise ValueError("no IDX file of bytes")
        shape = np.frombuffer(raw, ">u4", raw[3], 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


class Rows:
    """The pictures of Parquet files, by row; one row group is held at a time."""

    def __init__(self, files, column, groups):
        self.files, self.column, self.groups = files, column, groups
        self.starts = np.cumsum([0] + [count for _, _, count in groups])

    def __call__(self, number: int) -> bytes:
        group = int(np.searchsorted(self.starts, number, "right")) - 1
        file, index, _ = self.groups[group]
        value = _group(str(self.files[file]), index, self.column)[number - self.starts[group]]
        return value.get("bytes") if isinstance(value, dict) else value


@lru_cache(maxsize=4)
def _group(path, index, column) -> list:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path).read_row_group(index, [column]).column(0).to_pylist()
    except (ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadImage(f"{path}, row group {index} is not read: {reason}") from None


def parquet(files) -> tuple:
    """Pictures in Parquet files: small row groups read faster in random order."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            f"{files[0]}: Parquet needs the package pyarrow, which is missing: pip install pyarrow"
        ) from error
    groups, labels, image = [], [], ""
    for number, path in enumerate(files):
        try:
            file = ParquetFile(path)
            image = _one(IMAGE, file.schema_arrow.names, path)
            label = _one(LABEL, file.schema_arrow.names, path)
            labels += file.read([label]).column(0).to_pylist()
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            groups += [(number, g, size) for g, size in enumerate(sizes)]
        except (ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    return Rows([Path(f) for f in files], image, groups), labels, ()


def _one(names, columns, path) -> str:
    found = [name for name in names if name in columns]
    if not found:
        raise ValueError(f"{path} has columns {', '.join(columns)}; expected {' or '.join(names)}")
    return found[0]


class Records:
    """The pictures of ArrayRecord files."""

    def __init__(self, files):
        self.files = [records.File(path) for path in files]
        self.starts = np.cumsum([0] + [file.count for file in self.files])

    def read(self, number: int, names) -> list:
        """The values of the first of the features `names` that a record has; ValueError."""
        at = int(np.searchsorted(self.starts, number, "right")) - 1
        file, number = self.files[at], int(number - self.starts[at])
        found = file[number]
        return found[_one(names, found, f"{file.path}, record {number}")]

    def __call__(self, number: int) -> bytes:
        try:
            values = self.read(number, IMAGE)
        except ValueError as error:
            raise BadImage(str(error)) from None
        return values[0] if values else None


def array_record(files) -> tuple:
    """Pictures in ArrayRecord files; every record is read once for its label."""
    raw, labels = Records(files), []
    for number in range(int(raw.starts[-1])):
        values = raw.read(number, LABEL)
        values = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        labels.append(values)
    return raw, labels, ()


class Hub:
    """The encoded pictures of a hub data set."""

    def __init__(self, rows, column, source):
        self.rows, self.column, self.source = rows, column, source

    def __call__(self, number: int):
        try:
            value = self.rows[number][self.column] or {}
        except Exception as error:  # whatever the library meets in its files
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadImage(f"{self.source}, picture {number} is not read: {reason}") from error
        return value.get("bytes") or value.get("path")


def hub(source: str) -> dict:
    """{part: pictures} of hub:OWNER/NAME[:CONFIG]; offline, whatever the library has cached."""
    name, config = (source.split(":")[1:] + [""])[:2]
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{source}: a hub data set needs the extra hub: pip install -e '.[hub]'"
        ) from error
    try:
        whole = datasets.load_dataset(name, config or None)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{source} cannot be loaded ({type(error).__name__}: {reason})") from error
    made = {}
    for part in PARTS:  # a test part is the held-out one where there is no other
        rows, part = whole.get(part), PARTS[part]
        if rows is None or part in made:
            continue
        image, label = (_one(names, rows.column_names, source) for names in (IMAGE, LABEL))
        classes = tuple(getattr(rows.features[label], "names", ()) or ())
        values = list(rows[label])
        rows = rows.cast_column(image, datasets.Image(decode=False))
        made[part] = Hub(rows, image, source), values, classes
    return made


KINDS = {
    ".parquet": parquet,
    ".array_record": array_record,
    ".arrayrecord": array_record,
}
