import numpy as np
import pytest
from commands import gdiff

from gdiff.dataset import Dataset, synthetic
from gdiff.dataset.array import Array
from gdiff.errors import UserError


def source(shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    return Dataset("source", x, shift=127.5, scale=127.5)


def test_pictures_of_one_colour_stay_that_colour():
    x = np.full((4, 8, 8, 3), 7, np.uint8)
    plain = Dataset("plain", x, shift=127.5, scale=127.5)
    assert np.all(synthetic.pictures(plain, 16, np.random.default_rng(0)) == 7)


def test_a_linear_ramp_stays_linear_where_it_is_not_cut():
    ramp = np.broadcast_to(np.arange(32)[:, None, None] * 8, (2, 32, 32, 1)).astype(np.uint8)
    crops = synthetic._crops(
        Dataset("ramp", ramp, shift=127.5, scale=127.5), 64, np.random.default_rng(0)
    )
    inner = crops[:, 0, 2:-2, 0]
    assert np.abs(np.diff(inner, n=2, axis=1)).max() < 1e-2
    assert np.all(np.diff(inner, axis=1) > 0)


def test_pictures_that_are_large_enough_are_not_enlarged():
    data = source((6, 8, 8, 3))
    made = synthetic.pictures(data, 8, np.random.default_rng(0))
    known = np.concatenate([data.x, data.x[:, :, ::-1]])
    distances = np.abs(made[:, None].astype(int) - known)
    assert distances.min(axis=1).max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_depends_on_its_number_alone(tmp_path, channels):
    data = source((20, 8, 8, channels))
    few, many = (synthetic.write(data, tmp_path / f"{n}.npy", n, 10) for n in (5, 600))
    few, many = np.load(few), np.load(many)
    assert few.shape == (5, 10, 10, 3)
    assert many.shape == (600, 10, 10, 3)
    assert few.dtype == many.dtype == np.uint8
    assert np.array_equal(few, many[:5])
    assert len(np.unique(many.reshape(600, -1), axis=0)) == 600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["5.npy", "600.npy"]


def test_neighbouring_pixels_are_alike(tmp_path):
    """Structure, not noise: most of the variance is in few directions."""
    x = np.load(synthetic.write(source((50, 4, 4, 3)), tmp_path / "x.npy", 512, 16))
    x = x.reshape(512, -1) - x.mean(axis=0).reshape(-1)
    values = np.linalg.svd(x, compute_uv=False) ** 2
    assert values[:100].sum() > 0.9 * values.sum()


def test_the_command_writes_a_file_that_can_be_used(tmp_path):
    path = tmp_path / "folder" / "x.npy"
    words = ("data", "prepare", "synthetic", "--data-dir", tmp_path, "--points", 30)
    result = gdiff(*words, "--resolution", 12, "-o", path)
    assert (result.code, result.last) == (0, str(path))
    data = Array(path=path).load()
    assert data.x.shape == (30, 12, 12, 3)
    assert isinstance(data.x, np.memmap)
    assert gdiff(*words).last == str(tmp_path / "synthetic" / "30x64x64.npy")
    result = gdiff("data", "prepare", "mnist", "--points", 3)
    assert result.code == 2
    assert "--points is for gdiff data prepare synthetic" in result.err


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*--output") as error:
        synthetic.write(source((4, 4, 4, 3)), tmp_path / "file" / "x.npy", 3, 8)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--points=0"):
        synthetic.write(source((4, 4, 4, 3)), tmp_path / "x.npy", 0, 8)
