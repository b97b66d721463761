import tracemalloc
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from gdiff.dataset import Dataset, DatasetSpec
from gdiff.dataset.base import blocks, first_bad_row

from .errors import one_line


@dataclass(frozen=True, kw_only=True)
class Given(DatasetSpec):
    """Hands over what it is given."""

    x: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = field(default=None)

    def read(self):
        return Dataset(name="given", x=self.x, labels=self.labels, class_names=self.class_names)


X = np.arange(20, dtype=np.float32).reshape(10, 2)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 4], np.int32)


def test_without_options_nothing_is_copied():
    data = Given(x=X, labels=LABELS).load()
    assert data.x is X
    assert data.labels is LABELS


def test_options_that_keep_everything_copy_nothing():
    assert Given(x=X, labels=LABELS, subset=10, classes=[4, 2, 1, 0]).load().x is X


def test_classes_keep_their_rows_in_order_and_their_numbers():
    data = Given(x=X, labels=LABELS, classes=[2, 0]).load()
    rows = [0, 2, 3, 5, 6, 8]
    np.testing.assert_array_equal(data.x, X[rows])
    np.testing.assert_array_equal(data.labels, LABELS[rows])


def test_a_subset_is_in_stored_order_repeatable_and_inside_larger_ones():
    four = Given(x=X, labels=LABELS, subset=4).load()
    assert (np.diff(four.x[:, 0]) > 0).all()
    np.testing.assert_array_equal(four.x, Given(x=X, subset=4).load().x)
    np.testing.assert_array_equal(LABELS[(four.x[:, 0] / 2).astype(int)], four.labels)
    seven = Given(x=X, subset=7).load()
    assert set(four.x[:, 0]) < set(seven.x[:, 0])


def test_a_subset_spreads_over_the_rows():
    x = np.arange(100_000, dtype=np.float32)[:, None]
    rows = Given(x=x, subset=10_000).load().x[:, 0]
    histogram, _ = np.histogram(rows, bins=10)
    assert abs(histogram - 1000).max() < 5 * np.sqrt(1000)


def test_subset_counts_points_of_the_classes():
    data = Given(x=X, labels=LABELS, classes=[0, 1], subset=5).load()
    assert len(data) == 5
    assert set(data.labels) <= {0, 1}
    with one_line("dataset.subset=7", "6 points", "dataset.classes=[0, 1]"):
        Given(x=X, labels=LABELS, classes=[0, 1], subset=7).load()


@pytest.mark.parametrize("subset", [-3, 0, 1])
def test_a_subset_has_at_least_two_points(subset):
    with one_line(f"subset={subset}", "at least 2"):
        Given(x=X, subset=subset)


def test_a_subset_larger_than_the_data_is_refused():
    with one_line("dataset.subset=11", "10 points"):
        Given(x=X, subset=11).load()


def test_classes_need_labels():
    with one_line("dataset.classes=[0]", "no labels"):
        Given(x=X, classes=[0]).load()


def test_no_classes_at_all_are_refused():
    with one_line("classes=[]"):
        Given(x=X, labels=LABELS, classes=[])


@pytest.mark.parametrize("c", [5, -1])
def test_a_class_that_does_not_exist_is_refused_with_how_many_there_are(c):
    with one_line(f"dataset.classes=[0, {c}]", "5 classes", "0 to 4"):
        Given(x=X, labels=LABELS, classes=[0, c]).load()


def test_classes_may_be_named():
    data = Given(x=X, labels=LABELS, class_names=("ant", "bee", "cat", "d", "3"))
    same = replace(data, classes=[2, 0, 4]).load(), replace(data, classes=["cat", 0, "3"]).load()
    np.testing.assert_array_equal(same[0].x, same[1].x)
    np.testing.assert_array_equal(same[0].labels, same[1].labels)
    with one_line("dataset.classes=['bees']", "no class 'bees'", "did you mean 'bee'?"):
        replace(data, classes=["bees"]).load()
    with one_line("no class 'xyz'", "gdiff data info"):
        replace(data, classes=[0, "xyz"]).load()
    with one_line("no class '0'"):
        Given(x=X, labels=LABELS, classes=["0"]).load()


@pytest.mark.parametrize("classes", [[1.5], [True], [None], [[1]]])
def test_classes_are_numbers_or_names(classes):
    with one_line(f"classes={classes}", "is not a list of numbers or names"):
        Given(x=X, labels=LABELS, classes=classes)


def test_the_names_say_how_many_classes_there_are():
    names = tuple("abcdefg")
    with one_line("7 classes"):
        Given(x=X, labels=LABELS, class_names=names, classes=[7]).load()
    with one_line("no points of class 6"):
        Given(x=X, labels=LABELS, class_names=names, classes=[0, 6]).load()


def test_a_class_without_points_is_refused():
    with one_line("dataset.classes=[0, 3]", "no points of class 3"):
        Given(x=X, labels=LABELS, classes=[0, 3]).load()


def test_one_point_is_not_a_data_set():
    with one_line("only one point", "at least 2"):
        Given(x=X[:1]).load()
    with one_line("0 points"):
        Given(x=X[:0]).load()
    with one_line("only one point"):
        Given(x=X, labels=LABELS, classes=[4]).load()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_stored_row(bad):
    x = X.copy()
    x[7, 1] = bad
    with one_line("NaN or infinity", "row 7"):
        Given(x=x).load()
    with one_line("row 7"):
        Given(x=x, labels=LABELS, classes=[1]).load()
    assert len(Given(x=x, labels=LABELS, classes=[0]).load()) == 3


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_values_that_rounding_would_merge_are_refused(dtype):
    x = (1_700_000_000 + np.arange(50)[:, None]).astype(dtype)
    with one_line("given", "far from zero", "gdiff.Dataset"):
        Given(x=x).load()
    assert len(Given(x=x - 1_700_000_000).load()) == 50


def test_a_value_too_large_for_float32_is_refused():
    with one_line("row 3"):
        Given(x=np.where(np.arange(10) == 3, 1e300, 1.0)[:, None]).load()


@pytest.mark.parametrize(
    "x",
    [
        np.array([[{}], [1]], object),
        np.array([["a"], ["b"]]),
        np.ones((3, 2), complex),
        np.zeros(3, [("a", float)])[:, None],
        np.zeros((3, 1), "M8[s]"),
    ],
)
def test_what_is_not_a_real_number_is_refused(x):
    with one_line("plain real numbers"):
        Given(x=x).load()


def test_empty_points_are_refused():
    with one_line("empty points"):
        Given(x=np.zeros((5, 0))).load()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_8_bit_and_single_precision_stay_as_they_are(dtype):
    x = X.astype(dtype)
    assert Given(x=x).load().x is x


@pytest.mark.parametrize("dtype", ["f8", "f2", ">f4", "i8", "u2", "?", "i1"])
def test_other_types_become_native_float32(dtype):
    x = (X % 2).astype(dtype)
    data = Given(x=x).load()
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x, x.astype(np.float64))


def test_a_memory_map_stays_one_and_only_chosen_rows_are_read(tmp_path):
    shape = (2**20, 2**13)  # 8 GiB of a file without blocks
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=shape)
    assert Given(x=x).load().x is x
    tracemalloc.start()
    chosen = Given(x=x, subset=100).load().x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chosen.shape == (100, 2**13)
    assert not isinstance(chosen, np.memmap)
    assert peak < 64 * 2**20


def test_looking_for_bad_rows_takes_little_memory(tmp_path):
    shape = (2**14, 2**10)  # 64 MiB
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=shape)
    tracemalloc.start()
    assert Given(x=x).load().x is x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_blocks_cover_the_rows_once():
    x = np.zeros((1003, 5), np.float32)
    covered = np.concatenate([np.arange(1003)[rows] for rows in blocks(x, size=20 * 64)])
    np.testing.assert_array_equal(covered, np.arange(1003))
    assert max(rows.stop - rows.start for rows in blocks(x, size=20 * 64)) == 64
    assert list(blocks(x[:0])) == []
    assert len(list(blocks(x, size=1))) == 1003


def test_the_first_bad_row_is_found_across_blocks():
    x = np.zeros((5_000_000, 2), np.float32)
    assert first_bad_row(x) is None
    x[4_000_003, 1] = x[4_999_999, 0] = np.nan
    assert first_bad_row(x) == 4_000_003


def test_model_coordinates_are_the_affine_map():
    data = Dataset(name="d", x=np.array([[0], [255]], np.uint8), shift=127.5, scale=127.5)
    np.testing.assert_array_equal(data.rows(slice(None)), [[-1], [1]])
    assert data.rows(slice(None)).dtype == np.float32
    for dtype in (np.float64, "float64", np.dtype("f8")):
        assert data.to_model(data.x, dtype).dtype == np.float64


def test_the_fingerprint_follows_content_type_shape_and_map(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    mark = Dataset(name="a", x=x).fingerprint()
    assert Dataset(name="b", x=mapped).fingerprint() == mark
    changed = x.copy()
    changed[5, 1] += 1
    others = [
        Dataset(name="a", x=changed),
        Dataset(name="a", x=x.reshape(4, 3)),
        Dataset(name="a", x=x.astype(np.float64)),
        Dataset(name="a", x=x, scale=2.0),
    ]
    marks = {other.fingerprint() for other in others} | {mark}
    assert len(marks) == 5


def test_the_fingerprint_sees_any_single_value_of_many_blocks():
    x = np.zeros((100_000, 400), np.uint8)
    assert len(list(blocks(x))) > 2
    marks = {Dataset(name="a", x=x).fingerprint()}
    for row in (0, 12_347, 54_321, 99_999):
        x[row, row % 400] = 1
        marks.add(Dataset(name="a", x=x).fingerprint())
        x[row, row % 400] = 0
    assert len(marks) == 5
    assert Dataset(name="a", x=x).fingerprint() in marks


def test_the_fingerprint_does_not_depend_on_the_layout_in_memory():
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    mark = Dataset(name="a", x=x).fingerprint()
    assert Dataset(name="a", x=np.asfortranarray(x)).fingerprint() == mark
    assert Dataset(name="a", x=np.repeat(x, 2, axis=0)[::2]).fingerprint() == mark


def test_the_fingerprint_is_computed_once_and_copies_little(tmp_path, monkeypatch):
    shape = (2**14, 2**11)  # 128 MiB
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=shape)
    data = Dataset(name="a", x=x)
    tracemalloc.start()
    mark = data.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    monkeypatch.setattr("gdiff.dataset.base.blocks", None)
    assert data.fingerprint() == mark


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_chosen_rows_are_where_jax_can_use_them_in_place(dtype):
    x = np.arange(7 * 999, dtype=np.int64).reshape(999, 7).astype(dtype)
    for subset in range(500, 520):
        chosen = Given(x=x, subset=subset).load().x
        assert chosen.ctypes.data % 64 == 0
        assert chosen.flags.c_contiguous
        assert set(map(tuple, chosen)) <= set(map(tuple, x))


def test_chosen_rows_of_another_type_are_copied_once():
    x = np.zeros((2**17, 2**7))  # 128 MiB
    tracemalloc.start()
    chosen = Given(x=x, subset=2**17 - 1).load().x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < chosen.nbytes + 48 * 2**20
