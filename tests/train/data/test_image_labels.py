"""Labels: whole numbers or names, those of the training part, one or many as the task has it."""

import io

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from train.data import image_labels, image_sources, images, records

X = np.zeros((8, 8, 8), np.uint8)
Y = np.arange(8) % 3
ROWS = (np.arange(3) == Y[:, None]).astype(np.uint8)


def read(tmp_path, many=False, **arrays):
    np.savez(tmp_path / "a.npz", x=X, **arrays)
    return image_sources.read(str(tmp_path / "a.npz"), many)


def test_what_is_read_of_an_npz_file(tmp_path):
    for y in (Y, Y[:, None], Y.astype(np.float64), Y.astype(np.uint8)):
        found = read(tmp_path, y=y, x_test=X[:2], y_test=y[:2])
        assert found["train"].targets.tolist() == Y.tolist()
        assert found["train"].targets.dtype == np.int32
        assert found["valid"].labels == found["train"].labels == ("0", "1", "2")
    found = read(tmp_path, True, y=ROWS)["train"]
    assert found.targets.dtype == np.float32 and found.targets.tolist() == ROWS.tolist()


def changed(value):
    made = Y.astype(type(value) if isinstance(value, float) else np.int64)
    made[3] = value
    return made


@pytest.mark.parametrize(
    ("many", "arrays", "words"),
    [
        (False, dict(y=changed(-1)), "picture 3: the label is -1; .* from 0"),
        (False, dict(y=changed(0.7)), r"picture 3: the label is 0\.7"),
        (False, dict(y=changed(float("nan"))), "picture 3: the label is nan"),
        (False, dict(y=changed(2**40)), "picture 3: the label is 1099511627776"),
        (False, dict(y=np.array(list("abcdefgh"))), "labels of type <U1; expected whole numbers"),
        (False, dict(y=ROWS), r"labels \[8, 3\].*task=multilabel"),
        (False, dict(y=np.int64(3)), "8 pictures and 1 labels"),
        (False, dict(y=Y, x_test=X, y_test=changed(4)), r"\(x_test\), picture 3: .* from 0 to 2"),
        (True, dict(y=Y), "one label for each picture"),
        (True, dict(y=2 * ROWS), "picture 0: the labels hold 2; expected 0 or 1"),
        (True, dict(y=ROWS, x_test=X, y_test=ROWS[:, :2]), "2 classes; the training part has 3"),
    ],
)
def test_what_is_refused_of_an_npz_file(tmp_path, many, arrays, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, many, **arrays)


def test_folders_and_embedded_digits_have_one_label_each(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "0.png")
    for source in ("mnist", str(tmp_path)):
        with pytest.raises(ValueError, match="one label for each picture"):
            image_sources.read(source, many=True)


def settings(**data):
    return ConfigDict(dict(seed=0, data=dict(valid_share=0.0, **data)))


def test_another_source_that_is_held_out_has_the_classes_of_training(tmp_path):
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez(tmp_path / "few.npz", x=X, y=np.minimum(Y, 1))
    np.savez(tmp_path / "more.npz", x=X, y=np.arange(8) % 5)
    source = dict(source=str(tmp_path / "train.npz"))
    parts = images.parts(settings(**source, valid=str(tmp_path / "few.npz")))
    assert parts["valid"].labels == parts["train"].labels
    with pytest.raises(
        ValueError, match=r"more\.npz has other classes than the training part: '3'"
    ):
        images.parts(settings(**source, valid=str(tmp_path / "more.npz")))


def test_classes_go_by_name_where_their_order_differs():
    part = image_sources.in_memory("a", X, np.arange(8) % 2, ("dog", "cat"))
    assert image_labels.aligned(part, ("cat", "dog")).targets.tolist() == [1, 0] * 4
    part = image_sources.in_memory("a", X, ROWS[:, :2], ("dog", "cat"), many=True)
    np.testing.assert_array_equal(
        image_labels.aligned(part, ("cat", "cow", "dog")).targets[:3],
        [[0, 0, 1], [1, 0, 0], [0, 0, 0]],
    )


def encoded() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def column(tmp_path, values, many=False):
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": [encoded()] * len(values), "label": values}), path)
    return image_sources.read(str(path), many)["train"]


@pytest.mark.parametrize(
    ("values", "labels", "targets"),
    [
        (["cat", "dog", None], ("cat", "dog"), [[1, 0], [0, 1], [0, 0]]),
        ([1, 0, None], ("0", "1"), [[0, 1], [1, 0], [0, 0]]),
        ([[0, 1], None, [1]], ("0", "1"), [[1, 1], [0, 0], [0, 1]]),
        ([["cat", None], [], ["ant"]], ("ant", "cat"), [[0, 1], [0, 0], [1, 0]]),
    ],
)
def test_columns_of_many_labels(tmp_path, values, labels, targets):
    found = column(tmp_path, values, many=True)
    assert found.labels == labels and found.targets.tolist() == targets


@pytest.mark.parametrize(
    ("many", "values", "words"),
    [
        (False, ["a", None, "b"], r"picture 1 has no label"),
        (False, [1, None, 0], r"picture 1 has no label"),
        (False, [[1], [0, 1]], r"picture 1 has a list of 2 labels; use --config.data.task="),
        (False, [0.0, 1.5], r"picture 1 has the label 1\.5 \(float\)"),
        (False, [0, -1], r"picture 1 has the label -1; expected a class's number"),
        (False, [0, 2**40], r"picture 1 has the label 1099511627776"),
        (True, [[], None, []], "no picture has a label"),
        (True, [[[1]], [[2]]], r"picture 0 has the label \[1\] \(list\)"),
    ],
)
def test_what_is_refused_of_a_column(tmp_path, many, values, words):
    import pyarrow as pa

    values = pa.array(values, pa.list_(pa.int64())) if values[0] == [] else values
    with pytest.raises(ValueError, match=words):
        column(tmp_path, values, many)


def test_a_column_of_whole_numbers_as_floats_and_of_lists_of_one(tmp_path):
    assert column(tmp_path, [0.0, 2.0, 1.0]).targets.tolist() == [0, 2, 1]
    assert column(tmp_path, [[0], [2], [1]]).targets.tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match="number as its label, .* the name 'a'"):
        image_labels.classes([[1], ["a"]], "row {}".format)


def test_records_of_one_label_among_records_of_many(tmp_path):
    pytest.importorskip("array_record")
    path, labels = tmp_path / "a.array_record", [[0, 1], [1], [], [2]]
    records.write(path, ({"image": encoded(), "label": row} for row in labels))
    found = image_sources.read(str(path), many=True)["train"]
    assert found.targets.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="picture 0 has a list of 2 labels"):
        image_sources.read(str(path))
