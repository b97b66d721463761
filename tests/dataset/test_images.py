"""Photographs with odd tags, and pictures of other depths than eight bits."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gdiff.dataset import imagefile, images
from gdiff.dataset.folder import Folder

from .errors import one_line

# Dark above, bright below; of another height than width, so that a turn is seen.
UPRIGHT = np.repeat(np.array([[20], [20], [220], [220]], np.uint8), 6, axis=1)
ORIENTATION = (0x0112, 3, 1, struct.pack(">H", 6))  # to be turned by 90 degrees clockwise
STORED = np.rot90(UPRIGHT)


def tags(*entries, gps=()):
    """An EXIF block of entries (tag, type, count, content), as cameras write it."""
    begin = 8 + 2 + 12 * (len(entries) + bool(gps)) + 4
    inner = _directory(gps, begin)
    link = [(0x8825, 4, 1, struct.pack(">I", begin))] if gps else []
    outer = _directory((*entries, *link), 8, begin + (len(inner) if gps else 0))
    table = 2 + 12 * (len(entries) + bool(gps)) + 4
    return b"Exif\0\0MM\0*\0\0\0\x08" + outer[:table] + (inner if gps else b"") + outer[table:]


def _directory(entries, begin, room=None):
    room = begin + 2 + 12 * len(entries) + 4 if room is None else room
    table, content = struct.pack(">H", len(entries)), b""
    for tag, kind, count, raw in entries:
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(">I", room + len(content))
        table += struct.pack(">HHI", tag, kind, count) + place
        content += raw if len(raw) > 4 else b""
    return table + bytes(4) + content


def png(path, pixels, depth, colour, *, before=(), after=()):
    """Write a PNG file of [height, bytes] pixels with chunks (name, content) around them."""
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    height, bits = len(pixels), 8 * pixels[0].nbytes
    width = bits // (depth * {0: 1, 2: 3, 4: 2}[colour])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(raw)), *after, (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, each in chunks:
        check = struct.pack(">I", zlib.crc32(name + each))
        content += struct.pack(">I", len(each)) + name + each + check
    path.write_bytes(content)


def loaded(folder):
    return Folder(path=folder).load().x[0, ..., 0].astype(int)


@pytest.fixture
def notes(monkeypatch):
    """What the user is told."""
    told = []
    for module in ("images", "folder"):
        monkeypatch.setattr(f"gdiff.dataset.{module}.notice", told.append)
    return told


# Tags that are odd but say nothing of the orientation.
ODD = {
    "rational date": ((0x0132, 5, 1, struct.pack(">2I", 1, 0)),),
    "text for a number": ((0x0103, 2, 3, b"xx\0"),),
    "unknown type": ((0x9999, 99, 1, b"xx"),),
    "resolution of zero": ((0x011A, 5, 1, struct.pack(">2I", 0, 0)),),
}
ODD_PLACES = {
    "altitude in text": ((5, 2, 2, b"0\0"),),
    "version in text": ((0, 2, 5, b"2200\0"),),
    "place of 0/0": ((2, 5, 3, struct.pack(">6I", *[0] * 6)),),
}


@pytest.mark.parametrize("odd", [*ODD, *ODD_PLACES])
def test_odd_tags_beside_a_good_orientation_do_not_matter(tmp_path, odd):
    exif = tags(ORIENTATION, *ODD.get(odd, ()), gps=ODD_PLACES.get(odd, ()))
    for i in range(2):
        Image.fromarray(STORED).save(tmp_path / f"{i}.jpg", exif=exif, quality=100)
    np.testing.assert_allclose(loaded(tmp_path), UPRIGHT.astype(int), atol=4)


@pytest.mark.parametrize(
    "entry",
    [
        *((0x0112, 3, 1, struct.pack(">H", value)) for value in (0, 9)),
        (0x0112, 2, 2, b"6\0"),
        (0x0112, 3, 0, b""),
        (0x0112, 5, 1, struct.pack(">2I", 0, 0)),
        (0x0112, 7, 3, b"abc"),
    ],
)
def test_an_orientation_without_sense_leaves_a_picture_as_it_is(tmp_path, entry):
    for i in range(2):
        Image.fromarray(UPRIGHT).save(tmp_path / f"{i}.jpg", exif=tags(entry), quality=100)
    np.testing.assert_allclose(loaded(tmp_path), UPRIGHT.astype(int), atol=4)


@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations_of_all_kinds_of_files(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    # How a camera stores it that is held so: what Pillow does to show it, backwards.
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = back.get(value, imagefile._TURNS.get(value) and Image.Transpose[imagefile._TURNS[value]])
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    stored = image if turn is None else image.transpose(turn)
    stored.save(tmp_path / "a.png", exif=exif)
    stored.save(tmp_path / "b.webp", exif=exif, lossless=True)
    stored.save(tmp_path / "c.jpg", exif=exif, quality=100)
    stored.save(tmp_path / "d.png", format="TIFF", exif=exif)
    x = Folder(path=tmp_path).load().x.astype(int)
    np.testing.assert_allclose(x[..., 0], np.broadcast_to(image, (4, 4, 6)), atol=12)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "Raw profile", "XMP"])
def test_tags_of_a_png_file_count_wherever_they_stand(tmp_path, kind, place):
    exif = tags(ORIENTATION)
    profile = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    chunk = {
        "eXIf": (b"eXIf", exif[6:]),
        "Raw profile": (b"tEXt", b"Raw profile type exif\0" + profile),
        "XMP": (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    }[kind]
    for i in range(2):
        png(tmp_path / f"{i}.png", np.ascontiguousarray(STORED), 8, 0, **{place: [chunk]})
    np.testing.assert_array_equal(loaded(tmp_path), UPRIGHT)


def test_png_files_are_not_decoded_for_their_sizes(tmp_path, monkeypatch):
    png(tmp_path / "a.png", UPRIGHT, 8, 0, after=[(b"tEXt", b"date\0today")])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert images.headers([tmp_path / "a.png"], "a") == [((4, 6), True, False)]


def test_transparency_is_white_at_every_depth(tmp_path):
    """The value 1 (of 3, 15, 255 or 65 535) or a colour is transparent, another is not."""
    deep = np.array([[0xAB12, 0x2000]], ">u2")
    key = (b"tRNS", struct.pack(">H", 1))
    files = {
        "1": (np.array([[0b10000000]], np.uint8), 1, 0, [key]),
        "2": (np.array([[0b01000000]], np.uint8), 2, 0, [key]),
        "4": (np.array([[0x10]], np.uint8), 4, 0, [key]),
        "8": (np.array([[1, 0]], np.uint8), 8, 0, [key]),
        "16": (deep, 16, 0, [(b"tRNS", deep[0, :1].tobytes())]),
        "colours": (deep.repeat(3, 1), 16, 2, [(b"tRNS", deep[0, :1].tobytes() * 3)]),
        "alpha": (np.array([[0xAB12, 0, 0x2000, 0xFFFF]], ">u2"), 16, 4, []),
    }
    for name, (pixels, depth, colour, before) in files.items():
        path = tmp_path / f"{name}.png"
        png(path, pixels, depth, colour, before=before)
        x = images.pixels(path, 1)[0, :2, 0].tolist()
        assert x == [255, 32 if depth == 16 else 0], name


def test_deep_grey_with_alpha_is_grey_as_in_8_bits(tmp_path):
    for i in range(2):
        png(tmp_path / f"{i}.png", np.full((3, 6), 0xFFFF, ">u2"), 16, 4)
    assert Folder(path=tmp_path).load().x.shape == (2, 3, 3, 1)


@pytest.mark.parametrize("bits", [8, 10, 12, 15])
def test_deep_greys_take_the_bits_that_they_use(tmp_path, notes, bits):
    top = 2**bits - 1
    ramp = np.linspace(0, top, 32).round().astype(np.uint16).reshape(4, 8)
    Image.fromarray(ramp // 4).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "b.png")
    x = Folder(path=tmp_path).load().x[..., 0]
    np.testing.assert_array_equal(x[1], np.rint(ramp / top * 255))
    np.testing.assert_array_equal(x[0], np.rint(ramp // 4 / top * 255))
    assert len(notes) == 1
    assert f"{bits} bits" in notes[0]


def test_masks_of_0_and_1_are_black_and_white_also_if_resized(tmp_path, notes):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    Image.fromarray(0 * mask).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "b.png")
    np.testing.assert_array_equal(Folder(path=tmp_path).load().x[1, ..., 0], 255 * mask)
    assert "0 and 1" in notes[0]
    small = Folder(path=tmp_path, resolution=3).load().x[1, 1, :, 0]
    assert small[0] < 60 < small[1] < 200 < small[2]
    Image.fromarray(np.stack([mask] * 3, -1)).save(tmp_path / "c.png")
    np.testing.assert_array_equal(Folder(path=tmp_path).load().x[2, ..., 1], 255 * mask)


def test_pictures_that_stay_dark_are_told(tmp_path, notes):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for i in range(2):
        Image.fromarray(labels).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(loaded(tmp_path), labels)
    assert ["15 of 255" in note for note in notes] == [True]


def test_ordinary_pictures_need_no_remark_and_are_read_once(tmp_path, notes, monkeypatch):
    asked = []
    highest = images.highest
    monkeypatch.setattr(images, "highest", lambda file: asked.append(file) or highest(file))
    for i in range(3):
        Image.fromarray(UPRIGHT).save(tmp_path / f"{i}.png")
    loaded(tmp_path)
    assert (notes, len(asked)) == ([], 1)


def test_files_that_are_left_out_are_counted_in_one_line(tmp_path, notes):
    for name in ("cats/a.png", "dogs/b.png", "dogs/more/c.png", "dogs/more/.old/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(UPRIGHT).save(tmp_path / name)
    for name in ("cats/1.tif", "cats/2.TIF", "cats/3.jfif", "dogs/4.ppm", "cats/5"):
        (tmp_path / name).write_bytes(b"")
    for name in ("labels.csv", "README.md", "cats/Thumbs.db", "cats/.DS_Store"):
        (tmp_path / name).write_bytes(b"")
    for _ in range(2):  # and again where the cache has the pictures
        assert len(Folder(path=tmp_path).load()) == 2
    kinds = "2 .tif, 1 .jfif, 1 .ppm, 1 in deeper folders, 1 without a suffix"
    assert notes[0] == notes[1]
    assert sorted(kinds.split(", ")) == sorted(notes[0].split("(")[1].split(")")[0].split(", "))
    assert "6 files" in notes[0]


def test_a_folder_of_other_formats_alone_says_what_it_holds(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"")
    with one_line("1 file (1 .tif) is left out", "use .png"):
        Folder(path=tmp_path).load()


def test_folders_named_by_numbers_sort_as_numbers(tmp_path):
    for name in ("10", "9", "other", "007"):
        (tmp_path / name).mkdir()
        Image.fromarray(UPRIGHT).save(tmp_path / name / "a.png")
    assert Folder(path=tmp_path).load().class_names == ("007", "9", "10", "other")
