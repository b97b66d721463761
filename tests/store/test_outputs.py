"""The run folder: whole files or none, one process at a time, the same bytes again."""

import io
import json
import os
import time
import zipfile

import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.store import outputs
from gdiff.store.files import Member
from gdiff.store.outputs import RunFolder


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "run", "seed: 0\n") as run:
        yield run


MEMBERS = {
    "samples": Member(np.floating, ("k", 3, 2)),
    "index": Member(np.integer, ("k",)),
    "seconds": Member(np.floating, ()),
}


def names(path):
    return sorted(p.name for p in path.rglob("*"))


def write_chunks(run, sizes=(2, 2, 1)):
    x = np.random.default_rng(0).normal(size=(sum(sizes), 3, 2)).astype(np.float32)
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    for number, index in enumerate(parts):
        run.write_chunk(number, samples=x[index], index=index, seconds=np.array(0.5))
    return x


def test_chunks_join_to_one_file_that_numpy_reads(run):
    x = write_chunks(run)
    run.gather_chunks(3)
    with np.load(run.path / "samples.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["index", "samples"]
        assert np.array_equal(file["samples"], x)
        assert file["samples"].dtype == np.float32
        assert np.array_equal(file["index"], np.arange(5))
    assert np.array_equal(run.samples(), x)
    assert not (run.path / "chunks").exists()


def test_the_same_samples_are_the_same_bytes_at_any_time(run, monkeypatch):
    contents = []
    for year in (0, 10):
        now = time.time() + year * 365 * 86400
        monkeypatch.setattr(time, "time", lambda now=now: now)
        write_chunks(run)
        run.gather_chunks(3)
        contents.append((run.path / "samples.npz").read_bytes())
    assert contents[0] == contents[1]


def test_a_chunk_comes_back_as_it_was(run):
    x = write_chunks(run)
    assert np.array_equal(run.chunk(1, MEMBERS)["samples"], x[2:4])
    assert run.chunk(1, MEMBERS)["seconds"] == 0.5
    assert run.chunk(3, MEMBERS) is None


@pytest.mark.parametrize("keep", [0, 10, 100, 300])
def test_a_damaged_chunk_is_dropped(run, keep):
    write_chunks(run)
    path = run.path / "chunks" / "000001.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert run.chunk(1, MEMBERS) is None
    assert not path.exists()
    assert run.chunk(0, MEMBERS) is not None


def test_a_chunk_with_flipped_bits_is_dropped(run):
    write_chunks(run)
    path = run.path / "chunks" / "000001.npz"
    content = bytearray(path.read_bytes())
    content[140] ^= 255
    path.write_bytes(content)
    assert run.chunk(1, MEMBERS) is None


def other_shape(arrays):
    return arrays | {"samples": arrays["samples"][..., 0]}


def other_type(arrays):
    return arrays | {"samples": arrays["samples"].astype(str)}


def fewer_samples(arrays):
    return arrays | {"samples": arrays["samples"][1:]}


def without_the_index(arrays):
    return {name: array for name, array in arrays.items() if name != "index"}


def without_any(arrays):
    return {}


def with_objects(arrays):
    return arrays | {"samples": np.array([{}, None], object)}


@pytest.mark.parametrize(
    "damage",
    [other_shape, other_type, fewer_samples, without_the_index, without_any, with_objects],
)
def test_a_chunk_that_does_not_hold_what_it_must_is_dropped(run, damage, caplog):
    write_chunks(run)
    path = run.path / "chunks" / "000001.npz"
    np.savez(path, **damage(dict(np.load(path))))
    assert run.chunk(1, MEMBERS) is None
    assert not path.exists()
    assert "000001.npz is damaged" in caplog.text


@pytest.mark.parametrize(
    "damage", [other_shape, other_type, fewer_samples, without_any, with_objects]
)
def test_samples_that_are_not_those_of_the_run_are_refused(run, damage):
    write_chunks(run)
    run.gather_chunks(3)
    path = run.path / "samples.npz"
    np.savez(path, **damage(dict(np.load(path))))
    with pytest.raises(UserError, match=r"samples\.npz is damaged .*remove it.*--resume"):
        run.samples((5, 3, 2))


def test_no_room_is_made_for_what_a_damaged_header_tells(run):
    write_chunks(run)
    path = run.path / "chunks" / "000001.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3, 2)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("samples.npy", header.getvalue())
        archive.writestr("index.npy", header.getvalue())
    assert run.chunk(1, MEMBERS) is None


def test_a_write_that_fails_leaves_the_old_file_and_no_other(run):
    run.write_json("metrics.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("metrics.json", {"a": float("nan")})
    with pytest.raises(AttributeError):
        run.write_bytes("metrics.json", None.nothing)
    with pytest.raises(TypeError):
        run.write_bytes("metrics.json", "text")
    assert run.read_json("metrics.json") == {"a": 1}
    assert names(run.path) == [".lock", "config.yaml", "metrics.json"]


def test_a_full_disk_is_one_line(run, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*grid.png: No space left on device"):
        run.write_bytes("grid.png", b"x")
    assert "grid.png" not in names(run.path)


def test_a_folder_holds_one_run(run):
    with (
        pytest.raises(UserError, match="another process"),
        RunFolder.create(run.path, "seed: 1\n"),
    ):
        pass


def test_a_finished_run_is_not_overwritten(tmp_path):
    with RunFolder.create(tmp_path, "seed: 0\n"):
        pass
    with (
        pytest.raises(UserError, match="holds a run already"),
        RunFolder.create(tmp_path, "seed: 1\n"),
    ):
        pass
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"


def test_nobody_else_works_in_a_folder(run):
    with pytest.raises(UserError, match="another process is at work"), RunFolder.open(run.path):
        pass


def test_the_lock_goes_with_the_block_and_with_a_killed_process(tmp_path):
    with RunFolder.create(tmp_path, ""):
        assert ".lock" in names(tmp_path)
    assert ".lock" not in names(tmp_path)
    (tmp_path / ".lock").write_text("")  # as a killed process leaves it
    with RunFolder.open(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), RunFolder.open(tmp_path):
        _ = 1 / 0
    assert ".lock" not in names(tmp_path)


def test_opening_removes_what_a_killed_process_left(run):
    write_chunks(run)
    (run.path / "chunks" / "000003.npz.partial").write_bytes(b"half")
    (run.path / "grid.png.partial").write_bytes(b"half")
    os.remove(run.path / ".lock")
    with RunFolder.open(run.path):
        assert names(run.path / "chunks") == ["000000.npz", "000001.npz", "000002.npz"]
        assert "grid.png.partial" not in names(run.path)
    (run.path / "samples.npz").write_bytes(b"killed between the join and the removal of chunks")
    with RunFolder.open(run.path):
        assert not (run.path / "chunks").exists()


def test_only_the_folder_of_a_run_opens(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with (
            pytest.raises(UserError, match=r"not the folder of a run: it holds no config\.yaml"),
            RunFolder.open(path),
        ):
            pass


def test_missing_or_damaged_samples_say_what_to_do(run):
    with pytest.raises(UserError, match=r"holds no samples\.npz: .*--resume"):
        run.samples()
    (run.path / "samples.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"is damaged .*remove it.*--resume"):
        run.samples()


def test_a_damaged_json_file_is_a_users_error(tmp_path):
    assert outputs.read_json(tmp_path / "run.json") == {}
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        outputs.read_json(tmp_path / "run.json")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[]", "not a JSON object"),
        ("[" * 100_000, "nested too deep"),
        ('{"sigma": [NaN, 1, 0]}', "NaN is not a number"),
        ('{"sigma": [1e999, 1, 0]}', "sigma is not"),
        ('{"sigma": [1, 2, 0]}', "sigma is not"),
        ('{"sigma": [1, -2]}', "sigma is not"),
        ('{"sigma": "80, 1, 0"}', "sigma is not"),
        ('{"sigma": [1, [0]]}', "sigma is not"),
        ('{"seconds": {"fit": "long"}}', "seconds is not"),
        ('{"seconds": []}', "seconds is not"),
        ('{"sampling_seconds": true}', "sampling_seconds is not"),
        ('{"chunks": -3}', "chunks is not"),
        ('{"chunks": 1.5}', "chunks is not"),
        ('{"rounds": null}', "rounds is not"),
        ('{"dataset": "moons"}', "dataset is not"),
        ('{"dataset": {"fingerprint": 3}}', "dataset is not"),
        ('{"blocks": [{"rows": 3}]}', "blocks is not"),
        ('{"peak_memory_bytes": {"host": {}}}', "peak_memory_bytes is not"),
        ('{"status": ["complete"]}', "status is not"),
        (f'{{"chunks": 1{"0" * 5000}}}', "."),
    ],
)
def test_a_record_that_cannot_be_is_a_users_error(tmp_path, text, reason):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=rf"run\.json cannot be read \(.*{reason}.*\): remove it"):
        outputs.read_json(tmp_path / "run.json")


def test_metrics_are_numbers(tmp_path):
    (tmp_path / "metrics.json").write_text('{"sliced_wasserstein": [1]}')
    with pytest.raises(UserError, match="sliced_wasserstein is not a number"):
        outputs.read_json(tmp_path / "metrics.json")


def test_a_failure_is_recorded_beside_what_is_known(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "running", "seconds": {}}')
    outputs.write_failure(tmp_path, "no data")
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "status": "failed",
        "seconds": {},
        "error": "no data",
    }


def test_a_table_has_empty_cells_for_what_a_row_lacks(tmp_path):
    path = tmp_path / "sweep.csv"
    outputs.write_csv(path, ["a", "b"], [{"a": 1}, {"a": "x,y", "b": 2.5}])
    assert path.read_text() == 'a,b\n1,\n"x,y",2.5\n'
