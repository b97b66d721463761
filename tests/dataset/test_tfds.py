import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gdiff.dataset import images, prepare
from gdiff.dataset.base import NothingHeldOutError
from gdiff.dataset.tfds import Tfds, default_data_dir, file_formats, prepared

from .errors import one_line


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    from .tiny import prepare_all

    folder = tmp_path_factory.mktemp("tfds")
    prepare_all(folder)
    return folder


@pytest.fixture
def copied(tiny_dir, tmp_path):
    """A copy of `tiny_shapes` that a test may damage: (data_dir, folder of the version)."""
    folder = tmp_path / "tiny_shapes" / "1.0.0"
    shutil.copytree(tiny_dir / "tiny_shapes" / "1.0.0", folder)
    return tmp_path, folder


def edit(file: Path, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def in_written_order(x, originals):
    """`originals` in the order in which TFDS has shuffled them into x."""
    index = [int(np.argmin([abs(row - o.astype(int)).sum() for o in originals])) for row in x]
    assert sorted(index) == list(range(len(originals)))
    return index


def test_images_labels_and_names_come_back(tiny_dir):
    from .tiny import pictures

    data = Tfds(name="tiny_shapes", data_dir=tiny_dir).load()
    originals = pictures(12, (4, 6, 3))
    index = in_written_order(data.x, originals)
    np.testing.assert_array_equal(data.x, originals[index])
    np.testing.assert_array_equal(data.labels, np.array(index) % 3)
    assert data.labels.dtype == np.int32
    assert data.class_names == ("ant", "bee", "cat")
    assert (data.name, data.x.dtype, data.shift, data.scale) == (
        "tiny_shapes",
        np.uint8,
        127.5,
        127.5,
    )


DESCRIPTION = "Insects: ant Formica rufa; bee mason bee; cat house cat"


def test_codes_of_classes_stand_beside_what_the_description_says_of_them(copied):
    data_dir, folder = copied
    edit(folder / "dataset_info.json", lambda info: info.update(description=DESCRIPTION))
    spec = Tfds(name="tiny_shapes", data_dir=data_dir)
    data = spec.load()
    assert data.class_names == ("Formica rufa", "mason bee", "house cat")
    assert data.class_codes == ("ant", "bee", "cat")
    chosen = replace(spec, classes=["mason bee", "cat"]).load()
    np.testing.assert_array_equal(chosen.x, data.x[data.labels > 0])
    assert prepare.classes(chosen) == [(1, "mason bee", "bee", 4), (2, "house cat", "cat", 4)]
    with one_line("no class 'mason bees'", "did you mean 'mason bee'?"):
        replace(spec, classes=["mason bees"]).load()
    with one_line("no class 'cta'", "did you mean 'cat'?"):
        replace(spec, classes=["cta"]).load()


def test_a_name_that_two_classes_share_is_no_choice(copied):
    data_dir, folder = copied
    same = "ant crane; bee crane; cat tabby"
    edit(folder / "dataset_info.json", lambda info: info.update(description=same))
    with one_line("several classes 'crane'", "number"):
        Tfds(name="tiny_shapes", data_dir=data_dir, classes=["crane"]).load()
    assert len(Tfds(name="tiny_shapes", data_dir=data_dir, classes=["ant"]).load()) == 4


@pytest.mark.parametrize("description", [None, "", "ant Formica; bee", "of ant, bee and cat"])
def test_names_are_no_codes_where_the_description_lacks_one(copied, description):
    data_dir, folder = copied
    edit(folder / "dataset_info.json", lambda info: info.update(description=description))
    data = Tfds(name="tiny_shapes", data_dir=data_dir).load()
    assert (data.class_names, data.class_codes) == (("ant", "bee", "cat"), None)


def test_grey_images_have_one_channel(tiny_dir):
    from .tiny import pictures

    data = Tfds(name="tiny_grey", data_dir=tiny_dir).load()
    originals = pictures(12, (4, 6, 1))
    np.testing.assert_array_equal(data.x, originals[in_written_order(data.x, originals)])


def test_splits_slices_and_sums(tiny_dir):
    sizes = {"train": 12, "test": 5, "train[:4]": 4, "train+test[:2]": 14, "test[60%:]": 2}
    for split, size in sizes.items():
        data = Tfds(name="tiny_shapes", data_dir=tiny_dir, split=split).load()
        assert len(data) == len(data.labels) == size
    assert data.name == "tiny_shapes test[60%:]"


def test_a_subset_decodes_no_more_than_it_needs(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))
    decoded = []
    keep = images.decode_into
    monkeypatch.setattr(
        "gdiff.dataset.images.decode_into",
        lambda out, *a, **b: decoded.append(len(out)) or keep(out, *a, **b),
    )
    words = {"name": "tiny_shapes", "data_dir": tiny_dir, "subset": 6, "classes": [1, 2]}
    first = Tfds(**words).load()
    assert decoded == [6]
    again = Tfds(**words).load()
    assert decoded == [6]
    Tfds(**words | {"subset": None, "classes": None}).load()
    assert len(decoded) == 2
    # The same from the images of all.
    for data in (again, Tfds(**words).load()):
        np.testing.assert_array_equal(data.x, first.x)
        np.testing.assert_array_equal(data.labels, first.labels)
        assert data.fingerprint() == first.fingerprint()
    assert len(decoded) == 2


def test_classes_and_subset_apply(tiny_dir):
    data = Tfds(name="tiny_shapes", data_dir=tiny_dir, classes=[1, 2], subset=6).load()
    assert len(data) == 6
    assert set(data.labels) == {1, 2}


def test_resolution_resizes(tiny_dir):
    for resolution in (2, 4, 8):
        data = Tfds(name="tiny_shapes", data_dir=tiny_dir, resolution=resolution).load()
        assert data.x.shape == (12, resolution, resolution, 3)
    whole = Tfds(name="tiny_shapes", data_dir=tiny_dir).load().x
    four = Tfds(name="tiny_shapes", data_dir=tiny_dir, resolution=4).load().x
    np.testing.assert_array_equal(four, whole[:, :, 1:5])


def test_sizes_that_vary_need_a_resolution(tiny_dir):
    with one_line("tiny_varying", "8x8", "9x8", "dataset.resolution"):
        Tfds(name="tiny_varying", data_dir=tiny_dir).load()
    data = Tfds(name="tiny_varying", data_dir=tiny_dir, resolution=8).load()
    assert data.x.shape == (12, 8, 8, 3)
    assert data.labels is None
    with one_line("no labels"):
        Tfds(name="tiny_varying", data_dir=tiny_dir, resolution=8, classes=[0]).load()


def test_labels_of_minus_one_are_no_labels(tiny_dir):
    for _ in range(2):
        data = Tfds(name="tiny_unlabelled", data_dir=tiny_dir).load()
        assert (data.labels, data.class_names) == (None, None)


def test_data_without_images_is_refused(tiny_dir):
    with one_line("tiny_text has no images", "text (Text)"):
        Tfds(name="tiny_text", data_dir=tiny_dir).load()


def test_images_of_floats_are_refused(tiny_dir, tmp_path):
    shutil.copytree(tiny_dir / "tiny_grey", tmp_path / "tiny_grey")

    def as_float(content):
        content["featuresDict"]["features"]["picture"]["image"]["dtype"] = "float32"

    edit(tmp_path / "tiny_grey" / "1.0.0" / "features.json", as_float)
    with one_line("tiny_grey has float32 images"):
        Tfds(name="tiny_grey", data_dir=tmp_path).load()


def test_configurations_are_named_or_the_only_one(tiny_dir, tmp_path):
    assert len(Tfds(name="tiny_configs/two", data_dir=tiny_dir).load()) == 12
    with one_line("one, two", "tiny_configs/one"):
        Tfds(name="tiny_configs", data_dir=tiny_dir).load()
    shutil.copytree(tiny_dir / "tiny_configs" / "two", tmp_path / "tiny_configs" / "two")
    assert len(Tfds(name="tiny_configs", data_dir=tmp_path).load()) == 12


def test_the_newest_version_is_read_unless_one_is_named(copied):
    data_dir, folder = copied
    for version in ("0.9.0", "1.10.0", "1.9.0", "incomplete.A_2.0.0"):
        shutil.copytree(folder, folder.parent / version)
    assert prepared("tiny_shapes", data_dir).name == "1.10.0"
    assert prepared("tiny_shapes:0.9.0", data_dir).name == "0.9.0"
    assert prepared("tiny_shapes:3.0.0", data_dir) is None


def test_data_that_is_not_there_fails_at_once_and_says_where_to_put_it(tmp_path, monkeypatch):
    start = time.monotonic()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with one_line(
            f"mnist is not prepared in {folder}", "dataset.data_dir=DIR", "gdiff data prepare mnist"
        ):
            Tfds(name="mnist", data_dir=folder).load()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "own"))
    with one_line(str(tmp_path / "own")):
        Tfds(name="mnist").load()
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "tensorflow_datasets"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record"])
def test_without_its_library_the_cache_alone_is_read(tiny_dir, package, monkeypatch):
    cached = Tfds(name="tiny_shapes", data_dir=tiny_dir).load()
    monkeypatch.setitem(sys.modules, package, None)
    with one_line(package, "not installed", "dataset=array"):
        Tfds(name="tiny_shapes", data_dir=tiny_dir, split="train[:50%]").load()
    again = Tfds(name="tiny_shapes", data_dir=tiny_dir).load()
    np.testing.assert_array_equal(again.x, cached.x)


def test_a_name_is_needed(tmp_path):
    with one_line("name is missing"):
        Tfds(data_dir=tmp_path)


def test_an_unknown_split_is_refused_with_those_there_are(tiny_dir):
    for split in ("valid", "train+valid", ""):
        with one_line(f"dataset.split={split!r}", "train, test"):
            Tfds(name="tiny_shapes", data_dir=tiny_dir, split=split).load()


@pytest.mark.parametrize("split", ["train[abc]", "train[:0]", "train[9:3]", "train[:999]"])
def test_a_slice_that_makes_no_sense_is_one_line(tiny_dir, split):
    with one_line(f"dataset.split={split!r}"):
        Tfds(name="tiny_shapes", data_dir=tiny_dir, split=split).load()


def test_another_file_format_is_refused_by_name(copied):
    data_dir, folder = copied
    edit(folder / "dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
    with one_line("prepared as tfrecord", "array_record", "gdiff data prepare"):
        Tfds(name="tiny_shapes", data_dir=data_dir).load()
    edit(
        folder / "dataset_info.json",
        lambda info: info.update(alternativeFileFormats=["array_record"]),
    )
    assert file_formats(folder) == ["tfrecord", "array_record"]
    assert len(Tfds(name="tiny_shapes", data_dir=data_dir).load()) == 12


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_one_line(copied, file):
    data_dir, folder = copied
    (folder / file).write_text('{"name": ')
    with one_line(str(folder), "damaged", "prepare the data set anew"):
        Tfds(name="tiny_shapes", data_dir=data_dir).load()


@pytest.mark.parametrize("keep", [0, 100, None])
def test_damaged_or_missing_records_are_one_line(copied, keep):
    data_dir, folder = copied
    file = next(folder.glob("*-train.array_record*"))
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:keep])
    with one_line(str(folder), "damaged", "prepare the data set anew"):
        Tfds(name="tiny_shapes", data_dir=data_dir).load()
    assert len(Tfds(name="tiny_shapes", data_dir=data_dir, split="test").load()) == 5


def test_the_second_run_reads_the_cache_alone(copied, monkeypatch):
    data_dir, folder = copied
    first = Tfds(name="tiny_shapes", data_dir=data_dir).load()
    monkeypatch.setattr(images, "pixels", lambda *_: pytest.fail("decoded"))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    second = Tfds(name="tiny_shapes", data_dir=data_dir).load()
    assert isinstance(first.x, np.memmap)
    assert isinstance(second.x, np.memmap)
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.class_names == second.class_names
    monkeypatch.undo()
    shutil.copy(next(folder.glob("*-test*")), folder / "new_file")  # the folder has changed
    monkeypatch.setattr(images, "pixels", lambda *_: pytest.fail("decoded"))
    with pytest.raises(pytest.fail.Exception, match="decoded"):
        Tfds(name="tiny_shapes", data_dir=data_dir).load()


def test_labels_survive_the_loss_of_their_cache_entry(copied, tmp_path, monkeypatch):
    data_dir, _ = copied
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path / "cache"))
    first = Tfds(name="tiny_shapes", data_dir=data_dir).load()
    for file in (tmp_path / "cache").iterdir():
        if file.stat().st_size < 700:  # all but the images
            file.unlink()
    monkeypatch.setattr(images, "pixels", lambda *_: pytest.fail("decoded"))
    again = Tfds(name="tiny_shapes", data_dir=data_dir).load()
    np.testing.assert_array_equal(again.labels, first.labels)
    assert again.class_names == first.class_names


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_tensorflow_is_not_imported_and_nothing_is_printed(tiny_dir, tmp_path):
    code = f"""
import sys
from dataclasses import replace
from pathlib import Path
from gdiff.dataset.tfds import Tfds
data = Tfds(name="tiny_shapes", data_dir=Path({str(tiny_dir)!r})).load()
assert len(data) == 12 and "tensorflow_datasets" in sys.modules
assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
"""
    done = run_python(code, GDIFF_CACHE=str(tmp_path / "empty"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "name, split, shape, mean",
    [
        ("mnist", "test", (10_000, 28, 28, 1), 33.79),
        ("cifar10", "test", (10_000, 32, 32, 3), 121.53),
    ],
)
def test_real_data_has_its_published_size_and_mean(real_data_dir, name, split, shape, mean):
    data = Tfds(name=name, split=split, data_dir=real_data_dir).load()
    assert data.x.shape == shape
    assert isinstance(data.x, np.memmap)
    assert data.x.mean() == pytest.approx(mean, abs=0.3)
    counts = np.bincount(data.labels)
    assert len(counts) == len(data.class_names) == 10
    assert counts.min() > 850


def test_classes_of_tiny_imagenet_have_names(real_data_dir):
    if not (real_data_dir / "tiny_imagenet").is_dir():
        pytest.skip("no prepared Tiny ImageNet")
    spec = Tfds(name="tiny_imagenet", split="test", data_dir=real_data_dir)
    data = spec.load()
    assert data.x.shape == (5000, 64, 64, 3)
    assert data.class_names[data.class_codes.index("n02085620")] == "Chihuahua"
    for name in ("Chihuahua", "n02085620", data.class_names.index("Chihuahua")):
        assert set(replace(spec, classes=[name]).load().labels) == {24}


@pytest.mark.parametrize("split", ["train", "train[:5]", "train[:3] + train[6:]"])
def test_the_points_held_out_are_those_of_the_test_split(tiny_dir, split):
    held = Tfds(name="tiny_shapes", data_dir=tiny_dir, split=split, subset=3).held_out()
    assert held == Tfds(name="tiny_shapes", data_dir=tiny_dir, split="test")
    assert len(held.load()) == 5


def test_without_a_test_split_those_of_validation_are_held_out(copied):
    data_dir, folder = copied
    spec = Tfds(name="tiny_shapes", data_dir=data_dir)

    def call_it(name):
        return lambda info: info["splits"][-1].update(name=name)

    edit(folder / "dataset_info.json", call_it("validation"))
    assert spec.held_out() == replace(spec, split="validation")
    edit(folder / "dataset_info.json", call_it("extra"))
    with pytest.raises(NothingHeldOutError):
        spec.held_out()


@pytest.mark.parametrize("split", ["train[:5]+test", "test[:3]+train", "test", "all", "train+all"])
def test_points_that_may_be_in_the_test_split_have_none_held_out(tiny_dir, split):
    with one_line("no points held out", "schedule.loss_on=train"):
        Tfds(name="tiny_shapes", data_dir=tiny_dir, split=split).held_out()
