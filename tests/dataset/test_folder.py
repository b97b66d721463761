import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdiff.dataset import images
from gdiff.dataset.folder import Folder

from .errors import one_line

RNG = np.random.default_rng(0)


def picture(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(file, pixels, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, **options)
    return np.asarray(pixels)


@pytest.fixture
def flat(tmp_path):
    """A folder of three RGB images, and their pixels."""
    root = tmp_path / "flat"
    return root, np.stack([save(root / f"{i}.png", picture(6, 5, 3)) for i in range(3)])


def no_decoding(*_, **__):
    pytest.fail("decoded")


def test_a_flat_folder_has_no_labels(flat):
    root, pixels = flat
    data = Folder(path=root).load()
    np.testing.assert_array_equal(data.x, pixels)
    assert data.x.dtype == np.uint8
    assert (data.name, data.labels, data.class_names) == ("flat", None, None)
    points = data.rows(slice(None))
    np.testing.assert_allclose(points, pixels / 127.5 - 1, atol=1e-6)


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path):
    pixels = {
        name: save(tmp_path / name, picture(4, 4, 3))
        for name in ("cat/2.png", "ant/b.png", "cat/10.png", "ant/a.png", "dog/x.png")
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "list.txt").write_text("not an image")
    data = Folder(path=tmp_path).load()
    assert data.class_names == ("ant", "cat", "dog")
    np.testing.assert_array_equal(data.labels, [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(data.x, np.stack([pixels[name] for name in sorted(pixels)]))
    cats = Folder(path=tmp_path, classes=[1]).load()
    np.testing.assert_array_equal(cats.x, data.x[2:4])
    with one_line("3 classes"):
        Folder(path=tmp_path, classes=[3]).load()


def test_every_format_is_read(tmp_path):
    flat_colour = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    for suffix in ("png", "jpg", "jpeg", "bmp", "webp", "gif", "PNG", "JPG"):
        save(tmp_path / f"{suffix}.{suffix}", flat_colour)
    data = Folder(path=tmp_path).load()
    assert data.x.shape == (8, 8, 8, 3)
    np.testing.assert_allclose(data.x.astype(int) - flat_colour.astype(int), 0, atol=6)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (50, 100)]
    for i in range(2):
        frames[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(Folder(path=tmp_path).load().x, 50)


def test_grey_files_make_one_channel_and_one_colour_file_makes_three(tmp_path):
    grey = [save(tmp_path / f"{i}.png", picture(4, 4)) for i in range(2)]
    assert Folder(path=tmp_path).load().x.shape == (2, 4, 4, 1)
    colour = save(tmp_path / "2.png", picture(4, 4, 3))
    x = Folder(path=tmp_path).load().x
    np.testing.assert_array_equal(x[2], colour)
    for i in range(2):
        np.testing.assert_array_equal(x[i], np.repeat(grey[i][..., None], 3, axis=-1))


def test_hidden_and_other_files_are_left_out(flat):
    root, pixels = flat
    for name in (".DS_Store", "._0.png", "readme.txt", "Thumbs.db"):
        (root / name).write_bytes(b"junk")
    (root / ".cache").mkdir()
    (root / ".cache" / "x.png").write_bytes(b"junk")
    (root / "folder.png").mkdir()
    np.testing.assert_array_equal(Folder(path=root).load().x, pixels)


def test_links_are_followed(flat, tmp_path):
    root, pixels = flat
    linked = tmp_path / "linked"
    (linked / "one").mkdir(parents=True)
    (linked / "one" / "0.png").symlink_to(root / "0.png")
    (linked / "two").symlink_to(root)
    data = Folder(path=linked).load()
    np.testing.assert_array_equal(data.x, pixels[[0, 0, 1, 2]])
    np.testing.assert_array_equal(data.labels, [0, 1, 1, 1])
    (root / "broken.png").symlink_to(root / "nowhere.png")
    with one_line("broken.png", "cannot be read"):
        Folder(path=root).load()


def test_relative_paths_and_the_home_folder_are_understood(flat, monkeypatch):
    root, pixels = flat
    monkeypatch.chdir(root)
    assert Folder(path=Path()).load().name == "flat"
    monkeypatch.setenv("HOME", str(root.parent))
    np.testing.assert_array_equal(Folder(path=Path("~/flat")).load().x, pixels)


def test_transparency_becomes_white(tmp_path):
    colours = np.zeros((2, 4, 4), np.uint8)
    colours[0] = (0, 0, 0, 0)
    colours[1] = (10, 20, 30, 255)
    save(tmp_path / "a.png", colours)
    palette = Image.fromarray(np.array([[0] * 4, [1] * 4], np.uint8), mode="P")
    palette.putpalette([9, 9, 9, 10, 20, 30])
    palette.save(tmp_path / "b.png", transparency=0)
    for x in Folder(path=tmp_path).load().x:
        np.testing.assert_array_equal(x[0], np.full((4, 3), 255))
        np.testing.assert_array_equal(x[1], np.tile([10, 20, 30], (4, 1)))


def test_grey_with_alpha_stays_grey(tmp_path):
    for i in range(2):
        save(tmp_path / f"{i}.png", np.stack([np.arange(16).reshape(4, 4)] * 2, -1).astype("u1"))
    assert Folder(path=tmp_path).load().x.shape == (2, 4, 4, 1)


def test_16_bit_grey_is_rounded_to_8(tmp_path):
    wide = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
    for i in range(2):
        save(tmp_path / f"{i}.png", wide)
    x = Folder(path=tmp_path).load().x
    np.testing.assert_array_equal(x[0, ..., 0], np.rint(wide / 257))


def test_cmyk_and_bilevel_images_are_converted(tmp_path):
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # pure red
    cmyk.save(tmp_path / "a.jpg", quality=100)
    Image.new("1", (8, 8), 1).save(tmp_path / "b.png")
    x = Folder(path=tmp_path).load().x.astype(int)
    np.testing.assert_allclose(x[0] - np.array([255, 0, 0]), 0, atol=3)
    np.testing.assert_array_equal(x[1], 255)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_photographs_are_turned_upright(tmp_path, suffix):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # as taken, to be turned by 90 degrees clockwise
    image = Image.fromarray(np.rot90(upright)).convert("RGB" if suffix == "webp" else "L")
    for i in range(2):
        image.save(tmp_path / f"{i}.{suffix}", exif=exif, quality=95)
    x = Folder(path=tmp_path).load().x
    assert x.shape[1:3] == (16, 32)
    np.testing.assert_allclose(x[0, ..., 0].astype(int) - upright.astype(int), 0, atol=12)


def test_mixed_sizes_need_a_resolution(tmp_path):
    for i, shape in enumerate([(32, 32, 3), (32, 32, 3), (48, 64, 3)]):
        save(tmp_path / f"{i}.png", picture(*shape))
    with one_line("0.png is 32x32", "2.png is 64x48", "dataset.resolution"):
        Folder(path=tmp_path).load()
    assert Folder(path=tmp_path, resolution=16).load().x.shape == (3, 16, 16, 3)


def test_resolution_crops_the_centre_and_keeps_flat_areas_exact(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 120, 250)
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", tall)
    for resolution in (5, 20, 30):
        x = Folder(path=tmp_path, resolution=resolution).load().x
        np.testing.assert_array_equal(
            x, np.broadcast_to((10, 120, 250), (2, resolution, resolution, 3))
        )


def test_resizing_is_antialiased(tmp_path):
    """A checkerboard of single pixels has no detail left below its own frequency."""
    fine = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for i in range(2):
        save(tmp_path / f"{i}.png", fine)
    x = Folder(path=tmp_path, resolution=16).load().x.astype(int)
    np.testing.assert_allclose(x, 127.5, atol=12)


@pytest.mark.parametrize("resolution", [0, -4])
def test_a_resolution_is_positive(tmp_path, resolution):
    with one_line(f"resolution={resolution}"):
        Folder(path=tmp_path, resolution=resolution)


def test_a_missing_or_empty_folder_is_one_line(tmp_path):
    with one_line("path is missing"):
        Folder()
    with one_line(f"dataset.path={tmp_path / 'no'}", "not a folder"):
        Folder(path=tmp_path / "no").load()
    with one_line(f"dataset.path={tmp_path}", "no images", ".png"):
        Folder(path=tmp_path).load()
    file = tmp_path / "x.png"
    save(file, picture(4, 4))
    with one_line("not a folder"):
        Folder(path=file).load()
    with one_line("only one point"):
        Folder(path=tmp_path).load()


def test_a_folder_one_level_too_high_is_recognised(tmp_path):
    for part in ("train", "val"):
        save(tmp_path / part / "cat" / "0.png", picture(4, 4))
    with one_line("no images", f"give dataset.path={tmp_path / 'train'}"):
        Folder(path=tmp_path).load()


def test_images_beside_folders_of_images_are_ambiguous(flat):
    root, _ = flat
    save(root / "thumbs" / "0.png", picture(2, 2))
    with one_line("0.png", "thumbs", "only one of the two"):
        Folder(path=root).load()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6])
def test_a_damaged_image_is_named_on_one_line(flat, suffix, keep):
    root, _ = flat
    bad = root / f"bad.{suffix}"
    save(bad, picture(64, 64, 3))
    content = bad.read_bytes()
    bad.write_bytes(content[: int(keep * len(content))])
    with one_line(str(bad), "replace or remove"):
        Folder(path=root, resolution=8).load()


def test_a_file_that_is_no_image_is_named(flat):
    root, _ = flat
    (root / "page.jpg").write_text("<html>404\nnot found</html>")
    with one_line(str(root / "page.jpg"), "replace or remove"):
        Folder(path=root).load()


def test_a_failure_leaves_nothing_in_the_cache(flat, tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path / "cache"))
    root, pixels = flat
    bad = root / "bad.png"
    bad.write_bytes((root / "0.png").read_bytes()[:80])
    with one_line(str(bad)):
        Folder(path=root).load()
    bad.unlink()
    np.testing.assert_array_equal(Folder(path=root).load().x, pixels)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_file_or_folder_is_named(flat):
    root, _ = flat
    (root / "1.png").chmod(0)
    with one_line(str(root / "1.png"), "cannot be read"):
        Folder(path=root).load()
    root.chmod(0)
    with one_line(str(root), "cannot be read"):
        Folder(path=root).load()
    root.chmod(stat.S_IRWXU)


def test_a_refusal_to_open_is_one_line(flat, monkeypatch):
    root, _ = flat

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(root / "1.png"))

    monkeypatch.setattr("PIL.Image.open", refuse)
    with one_line("Permission denied", "cannot be read"):
        Folder(path=root).load()
    monkeypatch.setattr("os.scandir", refuse)
    with one_line(str(root), "Permission denied"):
        Folder(path=root).load()


def test_the_second_run_decodes_nothing_and_maps_the_cache(flat, monkeypatch):
    root, pixels = flat
    Folder(path=root).load()
    monkeypatch.setattr(images, "pixels", no_decoding)
    monkeypatch.setattr(images, "headers", no_decoding)
    data = Folder(path=root).load()
    assert isinstance(data.x, np.memmap)
    np.testing.assert_array_equal(data.x, pixels)


def test_a_changed_file_or_resolution_is_decoded_anew(flat):
    root, _ = flat
    before = Folder(path=root).load().x
    new = save(root / "1.png", picture(6, 5, 3))
    os.utime(root / "1.png", ns=(1, 1))
    np.testing.assert_array_equal(Folder(path=root).load().x[1], new)
    (root / "0.png").unlink()
    np.testing.assert_array_equal(Folder(path=root).load().x, [new, before[2]])
    assert Folder(path=root, resolution=3).load().x.shape == (2, 3, 3, 3)


def test_names_of_any_bytes_are_read(tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    try:
        root.mkdir()
    except OSError:
        pytest.skip("this file system takes only text")
    for i in range(2):
        save(tmp_path / f"{i}.png", picture(4, 4))
        (tmp_path / f"{i}.png").rename(root / os.fsdecode(b"\xfe%d.png" % i))
    assert len(Folder(path=root).load()) == 2


def test_an_unusable_cache_changes_nothing(flat, tmp_path, monkeypatch):
    root, pixels = flat
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(Folder(path=root).load().x, pixels)


def test_many_images_on_several_threads_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_threads", lambda size: 4)
    for i in range(600):
        Image.new("RGB", (4, 4), (i % 256, i // 256, 7)).save(tmp_path / f"{i:03d}.png")
    x = Folder(path=tmp_path).load().x.astype(int)
    np.testing.assert_array_equal(x[:, 0, 0, 0] + 256 * x[:, 0, 0, 1], range(600))


def test_small_images_are_decoded_on_one_thread():
    assert images._threads(28 * 28) == images._threads(32 * 32 * 3) == 1
    assert images._threads(1024 * 1024 * 3) == os.cpu_count()
