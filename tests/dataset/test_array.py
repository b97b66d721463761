import pickle
import zipfile

import numpy as np
import pytest

from gdiff.dataset.array import Array
from gdiff.dataset.prepare import classes

from .errors import one_line

RNG = np.random.default_rng(0)


@pytest.fixture
def stored(tmp_path):
    def store(x, name="data.npy"):
        np.save(tmp_path / name, x)
        return tmp_path / name

    return store


@pytest.fixture
def archived(tmp_path):
    def archive(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return archive


def test_8_bit_images_stay_a_memory_map_and_reach_from_minus_one_to_one(stored):
    x = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    data = Array(path=stored(x)).load()
    assert isinstance(data.x, np.memmap)
    assert data.x.dtype == np.uint8
    assert data.name == "data"
    np.testing.assert_allclose(data.rows(slice(None)), x / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 4, 5), (6, 4, 5, 3)])
def test_shapes_become_vectors_or_images_without_a_copy(stored, shape):
    x = RNG.normal(size=shape).astype(np.float32)
    data = Array(path=stored(x), scale="none").load()
    assert data.x.shape == (shape if len(shape) in (2, 4) else (*shape, 1))
    assert data.is_image == (len(shape) > 2)
    assert isinstance(data.x, np.memmap)
    assert (data.shift, data.scale) == (0, 1)
    np.testing.assert_array_equal(data.x.reshape(shape), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_auto_maps_the_least_and_greatest_value_to_minus_one_and_one(stored, dtype):
    x = (RNG.normal(size=(50, 3)) * 40 + 7).astype(dtype)
    path = stored(x)
    points = Array(path=path).load().rows(slice(None))
    assert points.min() == pytest.approx(-1, abs=1e-6)
    assert points.max() == pytest.approx(1, abs=1e-6)
    assert Array(path=path).load().x.dtype == np.float32


def test_a_subset_is_scaled_like_the_whole(stored):
    path = stored(RNG.normal(size=(100, 3)).astype(np.float32))
    whole, part = Array(path=path).load(), Array(path=path, subset=5).load()
    assert (whole.shift, whole.scale) == (part.shift, part.scale)


def test_constant_data_is_mapped_to_zero(stored):
    data = Array(path=stored(np.full((4, 2), 3.0))).load()
    np.testing.assert_array_equal(data.rows(slice(None)), np.zeros((4, 2)))


def test_an_archive_gives_its_only_array_or_the_usual_names(archived):
    x = RNG.normal(size=(6, 2)).astype(np.float32)
    y = np.array([0, 1, 2] * 2)
    for arrays in ({"anything": x}, {"x": x, "z": x[:3]}, {"images": x, "z": x[:3]}):
        np.testing.assert_array_equal(Array(path=archived(**arrays)).load().x, x)
    for label in ("y", "labels", "label"):
        data = Array(path=archived(**{"pixels": x, label: y}), classes=[2]).load()
        np.testing.assert_array_equal(data.x, x[2::3])
        np.testing.assert_array_equal(data.labels, [2, 2])
        assert data.labels.dtype == np.int32


def test_a_key_chooses_the_array(archived):
    path = archived(a=np.zeros((4, 1)), b=np.ones((4, 2)))
    assert Array(path=path, key="b").load().x.shape == (4, 2)
    with one_line("a, b", "dataset.key"):
        Array(path=path).load()
    with one_line("a, b", "not c", "dataset.key"):
        Array(path=path, key="c").load()


def test_columns_of_labels_are_labels_and_targets_are_not(archived):
    x = np.zeros((4, 1), np.float32)
    assert Array(path=archived(x=x, y=np.array([[0], [1], [0], [1]]))).load().labels.shape == (4,)
    for y in (np.zeros((4, 10), int), np.full(4, 0.5), np.array([0, 1, np.nan, 2])):
        assert Array(path=archived(x=x, y=y)).load().labels is None
    with one_line("y has 3 rows for 4 points"):
        Array(path=archived(x=x, y=np.zeros(3, int))).load()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 2**32, 2**33, 0]),
        np.array([2**63, 2**63 + 1, 2**63, 7], np.uint64),
        np.array([-1, 0, -1, 1], np.int8),
        np.array([0.0, 2.0, 1.0, 2.0], np.float16),
        np.array([[True], [False], [True], [False]]),
    ],
    ids=str,
)
def test_whole_numbers_of_any_type_are_labels_and_each_can_be_chosen(archived, labels):
    x = np.arange(4, dtype=np.float32)
    path = archived(x=x, y=labels)
    found = classes(Array(path=path).load())
    assert [row.number for row in found] == sorted(set(map(int, labels.ravel())))
    for row in found:
        # A class of one point is no data set: together with another one.
        wanted = [row.number, next(other.number for other in found if other != row)]
        chosen = Array(path=path, classes=wanted).load()
        assert set(map(int, chosen.labels)) == set(wanted)
        np.testing.assert_array_equal(
            chosen.x.ravel(), x[[int(label) in wanted for label in labels.ravel()]]
        )


def test_classes_with_gaps_are_counted_and_not_numbered_through(archived):
    path = archived(x=np.zeros(4), y=np.array([5, 5, 10**8, 10**9]))
    with one_line("has 3 classes, numbered 5, 100000000, 1000000000"):
        Array(path=path, classes=[6 * 10**9]).load()


def test_a_member_that_is_no_array_is_one_line(archived):
    path = archived(x=np.zeros((4, 2)), z=np.ones((4, 2)))
    for name in ("readme.txt", "y"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, "not an array")
    with one_line("dataset.path", "readme.txt is not an array", "dataset.key"):
        Array(path=path, key="readme.txt").load()
    with one_line("dataset.path", "y is not an array", "dataset.key"):
        Array(path=path).load()


def test_keys_are_for_archives(stored):
    with one_line("dataset.key='x'", ".npz"):
        Array(path=stored(np.zeros((3, 1))), key="x").load()


def test_missing_files_are_named(tmp_path):
    with one_line("path is missing"):
        Array()
    for path in (tmp_path, tmp_path / "no.npy"):
        with one_line(f"dataset.path={path}", ".npy or .npz"):
            Array(path=path).load()


def test_an_unknown_scale_is_refused(tmp_path):
    with one_line("scale='max'", "auto, none"):
        Array(path=tmp_path / "x.npy", scale="max")


def test_damaged_files_are_one_line(stored, archived, tmp_path):
    whole = stored(np.zeros((1000, 3)))
    content = whole.read_bytes()
    for end in (0, 5, 60, 2000):
        whole.write_bytes(content[:end])
        with one_line(f"dataset.path={whole}", "cannot be read"):
            Array(path=whole).load()
    archive = archived(x=RNG.normal(size=(1000, 3)))
    content = archive.read_bytes()
    for damaged in (b"", content[:2000], content[:9000] + b"?" * 100 + content[9100:]):
        archive.write_bytes(damaged)
        with one_line(f"dataset.path={archive}", "cannot be read"):
            Array(path=archive).load()
    other = tmp_path / "model.pt"
    other.write_bytes(b"PK\3\4 something else")
    with one_line(f"dataset.path={other}", "cannot be read"):
        Array(path=other).load()


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_ever_unpickled(stored, archived, tmp_path):
    trap = np.array([[Trap()], [Trap()]], object)
    for path in (stored(trap), archived(x=trap)):
        with one_line(f"dataset.path={path}", "store plain numbers"):
            Array(path=path).load()
    bare = tmp_path / "bare.npy"
    bare.write_bytes(pickle.dumps(Trap()))
    with one_line(f"dataset.path={bare}"):
        Array(path=bare).load()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", ["auto", "none"])
def test_nan_is_refused_with_its_row(stored, dtype, scale):
    x = np.zeros((300_000, 32), dtype)
    x[200_001, 3] = np.nan
    x[200_005, 0] = np.inf
    with one_line("NaN or infinity", "row 200001", "remove"):
        Array(path=stored(x), scale=scale).load()


def test_shapes_that_cannot_be_points_are_refused(stored):
    for shape in ((), (2, 2, 2, 2, 2)):
        with one_line("shape", "[n, height, width, channels]"):
            Array(path=stored(np.zeros(shape))).load()
    with one_line("channels first", "np.moveaxis(x, 1, -1)"):
        Array(path=stored(np.zeros((5, 3, 8, 8)))).load()
    with one_line("0 points"):
        Array(path=stored(np.zeros((0, 3)))).load()
    with one_line("only one point"):
        Array(path=stored(np.zeros((1, 3)))).load()


def test_text_and_records_are_refused(stored):
    for x in (np.array(["a", "b"]), np.zeros(3, [("a", "f4")]), np.zeros((3, 1), complex)):
        with one_line("plain real numbers"):
            Array(path=stored(x)).load()
