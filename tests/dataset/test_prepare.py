import gzip
import http.server
import io
import json
import socket
import sys
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gdiff.dataset import Dataset, prepare
from gdiff.dataset.tfds import Tfds
from gdiff.dataset.toy import Moons

from .errors import one_line

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"


def test_every_option_of_the_group_is_listed():
    assert set(prepare.PRESETS) == {file.stem for file in CONFIGS.glob("*.yaml")}


def test_what_is_ready_is_told_with_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "array_record"}))
    other = tmp_path / "mnist" / "3.0.1"
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    broken = tmp_path / "celeb_a" / "2.1.0"
    broken.mkdir(parents=True)
    (broken / "dataset_info.json").write_text("{")
    rows = {row.name: row for row in prepare.available(tmp_path)}
    assert (rows["cifar10"].ready, rows["cifar10"].where) == (True, str(folder))
    assert (rows["mnist"].ready, rows["mnist"].where) == (False, "run gdiff data prepare mnist")
    assert rows["fashion_mnist"].ready is False
    assert rows["celeb_a"].ready is False
    assert "damaged" in rows["celeb_a"].where
    assert (rows["folder"].ready, rows["folder"].where) == (False, "give dataset.path")
    assert rows["digits"].ready
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert prepare.available() == prepare.available(tmp_path)


def test_listed_shapes_are_those_of_the_data(real_data_dir):
    for name in ("mnist", "cifar10"):
        preset = prepare.PRESETS[name]
        data = Tfds(name=preset.tfds, data_dir=real_data_dir, split="test").load()
        assert data.event_shape == preset.shape
    assert (len(Moons().load()), Moons().load().event_shape) == prepare.PRESETS["moons"][1:3]


def test_a_data_set_is_described(tmp_path):
    x = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
    data = Dataset(
        name="d", x=x, labels=np.array([0, 2, 2], np.int32), class_names=("a", "b", "c"), scale=2.0
    )
    facts = prepare.describe(data)
    assert prepare.classes(data) == [(0, "a", 1), (2, "c", 2)]
    assert prepare.classes(replace(data, class_names=None)) == [(0, None, 1), (2, None, 2)]
    assert (facts["points"], facts["shape"], facts["dim"]) == (3, (2,), 2)
    assert (facts["dtype"], facts["bytes"], facts["memory_mapped"]) == ("float32", 24, False)
    assert (facts["min"], facts["max"], facts["mean_norm"]) == (0, 8, 2.5)
    assert facts["fingerprint"] == data.fingerprint()
    json.dumps(facts)
    np.save(tmp_path / "x.npy", x)
    mapped = Dataset(name="d", x=np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert prepare.describe(mapped)["memory_mapped"] is True
    assert prepare.classes(mapped) == []


@pytest.mark.parametrize("name", ["digits", "moons", "two_points"])
def test_what_is_built_in_needs_no_preparation(name):
    with one_line(f"{name} needs no preparation", "as it is"):
        prepare.prepare(name)


def test_ones_own_data_needs_no_preparation():
    with one_line("folder needs no preparation", "dataset.path"):
        prepare.prepare("folder")


def test_prepared_data_is_left_as_it_is(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({"fileFormat": "array_record"}))
    assert prepare.prepare("mnist", tmp_path) == folder
    info.write_text(json.dumps({"fileFormat": "tfrecord"}))
    with one_line("tfrecord", "array_record", "another folder"):
        prepare.prepare("mnist", tmp_path)


def test_what_cannot_be_downloaded_is_not_said_to_be(tmp_path):
    rows = {row.name: row for row in prepare.available(tmp_path)}
    assert (rows["tiny_imagenet"].ready, rows["tiny_imagenet"].where) == (
        False,
        "give dataset.data_dir",
    )
    with one_line("tiny_imagenet is not in", "cannot prepare it", "dataset.data_dir=DIR"):
        prepare.prepare("tiny_imagenet", tmp_path)


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    with one_line("'mnits'", "did you mean mnist?"):
        prepare.prepare("mnits", tmp_path)
    with one_line("'qqqqqqqqqq'", "tensorflow.org/datasets"):
        prepare.prepare("qqqqqqqqqq", tmp_path)


def test_no_network_is_told_within_seconds(tmp_path, monkeypatch):
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    start = time.monotonic()

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with one_line("cifar10", "storage.googleapis.com", "dataset.data_dir=DIR"):
        prepare.prepare("cifar10", tmp_path)
    # A name server that does not answer before the test is over.
    over, before = threading.Event(), set(threading.enumerate())

    def hang(*_, **__):
        over.wait(30)
        raise OSError("no network")

    monkeypatch.setattr(prepare, "_NETWORK_SECONDS", 0.2)
    monkeypatch.setattr(socket, "create_connection", hang)
    with one_line("cifar10"):
        prepare.prepare("cifar10", tmp_path)
    assert time.monotonic() - start < 8
    over.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert list(tmp_path.iterdir()) == []


def test_behind_a_proxy_the_proxy_is_asked(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        prepare._check_network("mnist")
    with one_line("127.0.0.1"):
        prepare._check_network("mnist")


@pytest.fixture
def server(tmp_path):
    """Address of a local server of files, and its folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    root = tmp_path / "served"
    root.mkdir()
    handler = partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", root
        running.shutdown()


def test_downloaded_archives_of_arrays_are_prepared_without_tensorflow(
    server, tmp_path, monkeypatch, capfd
):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as tf

    address, root = server
    pixels = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 1), dtype=np.uint8)
    (root / "pixels.gz").write_bytes(gzip.compress(pixels.tobytes()))
    with tarfile.open(root / "labels.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("inner/labels.bin")
        member.size = 20
        tar.addfile(member, io.BytesIO(bytes(i % 4 for i in range(20))))

    class TinyDownloaded(tfds.core.GeneratorBasedBuilder):
        """Reads as TFDS's own MNIST and CIFAR do: through TensorFlow's files."""

        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = Path(__file__).parent

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(5, 4, 1)),
                "label": tfds.features.ClassLabel(num_classes=4),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, downloads):
            files = downloads.download_and_extract(
                {"x": f"{address}/pixels.gz", "y": f"{address}/labels.tar.gz"}
            )
            return {"train": self._generate_examples(files["x"], files["y"])}

        def _generate_examples(self, x, y):
            with tf.io.gfile.GFile(x, "rb") as file:
                images = np.frombuffer(file.read(), np.uint8).reshape(20, 5, 4, 1)
            with tf.io.gfile.GFile(Path(y) / "inner" / "labels.bin", "rb") as file:
                labels = np.frombuffer(file.read(), np.uint8)
            for i in range(20):
                yield i, {"image": images[i], "label": int(labels[i])}

    monkeypatch.setattr(prepare, "_check_network", lambda name: None)
    folder = prepare.prepare("tiny_downloaded", tmp_path / "data")
    assert folder == tmp_path / "data" / "tiny_downloaded" / "1.0.0"
    assert "tensorflow" not in sys.modules
    assert capfd.readouterr().out == ""
    data = Tfds(name="tiny_downloaded", data_dir=tmp_path / "data").load()
    ours = sorted(
        (row.tobytes(), int(label)) for row, label in zip(data.x, data.labels, strict=True)
    )
    assert ours == sorted((row.tobytes(), i % 4) for i, row in enumerate(pixels))


def test_what_tfds_objects_to_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_check_network", lambda name: None)
    with one_line("TFDS could not prepare mnist/nothing", "catalog"):
        prepare.prepare("mnist/nothing", tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    with one_line("TFDS could not prepare mnist", str(file)):
        prepare.prepare("mnist", file)
