"""Images from files: Pillow's pixels, the field's crops and colours, odd files as people expect."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lt_bench.data.file_loading import FileLoader
from lt_bench.data.images import (
    UNREADABLE,
    CentreWindow,
    Cut,
    EncodedImage,
    FolderReader,
    RandomWindow,
    is_image_name,
    pixels,
    resized,
)
from lt_bench.data.transforms import ColorJitter, Views
from lt_bench.data.types import ImageFiles
from lt_bench.errors import ConfigError, DataError
from lt_bench.schema import Spec
from tests.trees import write_photo

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "imagenet_sample"
needs_photos = pytest.mark.skipif(not SHARED.is_dir(), reason="the sample photos are not here")


def draw(seed=0):
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


def seen(path, window=None, size=224, *, is_turned=False, **options):
    reader = FolderReader(path.parent, [path.name], is_turned)
    return pixels(reader, 0, window or CentreWindow(), size=size, draw=draw(), **options)


class Fixed:
    """A window that always shows the same box."""

    def __init__(self, *box):
        self.box = box

    def __call__(self, width, height, size, draw):
        return Cut(self.box, (size, size))


def photos(count):
    return sorted(SHARED.iterdir())[:count]


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request, monkeypatch):
    """JPEG is decoded by one and by the other."""
    if request.param == "Pillow":
        monkeypatch.setattr("lt_bench.data.images.simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg", reason="needs the extra jpeg")


def furthest(found, expected):
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected).max())


@needs_photos
@pytest.mark.usefixtures("decoder")
def test_evaluation_shows_the_pixels_of_resize_256_and_centre_crop_224():
    from torchvision import transforms

    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for path in photos(12):
        with Image.open(path) as image:
            expected = np.asarray(theirs(image.convert("RGB")))
        assert furthest(seen(path), expected) <= 1, path.name


@needs_photos
@pytest.mark.usefixtures("decoder")
def test_a_random_window_shows_the_pixels_of_torchvisions_resized_crop():
    from torchvision.transforms import functional

    for seed, path in enumerate(photos(12)):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        left, top, right, bottom = box = RandomWindow((0.08, 1), (0.75, 4 / 3))(
            *rgb.size, 224, draw(seed)
        ).box
        expected = functional.resized_crop(rgb, top, left, bottom - top, right - left, [224, 224])
        assert furthest(seen(path, Fixed(*box)), np.asarray(expected)) <= 1, path.name


def test_odd_shapes_are_resized_to_pillows_pixels():
    drawn = draw()
    for _ in range(150):
        width, height, *size = (int(side) for side in np.exp(drawn.uniform(0, np.log(500), 4)))
        for image in (
            drawn.integers(0, 256, (height, width, 3), dtype=np.uint8),
            255 * drawn.integers(0, 2, (height, width, 3), dtype=np.uint8),
        ):
            expected = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
            found = resized(image, tuple(size))
            assert furthest(found, np.asarray(expected)) <= 1, (width, height, size)


def jpegs():
    """Contents of every kind: smooth and busy, tiny and odd, gray, progressive, subsampled."""
    drawn = draw()
    for size, colours, quality in itertools.product(
        [(1, 1), (17, 9), (150, 113)], ["RGB", "L"], [30, 95]
    ):
        coarse = drawn.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size).convert(colours)
        for subsampling, is_progressive in itertools.product([0, 1, 2], [False, True]):
            stream = io.BytesIO()
            image.save(
                stream,
                "JPEG",
                quality=quality,
                subsampling=subsampling,
                progressive=is_progressive,
                restart_marker_blocks=3 if quality == 30 else 0,
            )
            yield stream.getvalue()


def decoded(content):
    """The pixels, or what is said instead."""
    try:
        return EncodedImage(content).pixels()
    except UNREADABLE as error:
        return str(error)


def test_simplejpeg_shows_pillows_pixels_and_refuses_what_pillow_refuses(monkeypatch):
    pytest.importorskip("simplejpeg", reason="needs the extra jpeg")
    drawn = draw()
    contents = list(jpegs())
    for whole in tuple(contents):
        contents += [whole[: -int(n)] for n in drawn.integers(1, len(whole), 4)]
        for _ in range(4):
            damaged = bytearray(whole)
            for place in drawn.integers(2, len(whole), 3):
                damaged[place] = drawn.integers(256)
            contents.append(bytes(damaged))
    found = [decoded(content) for content in contents]
    monkeypatch.setattr("lt_bench.data.images.simplejpeg", None)
    refused = 0
    for content, one in zip(contents, found, strict=True):
        other = decoded(content)
        refused += isinstance(other, str)
        assert np.array_equal(one, other)
    assert 0.2 < refused / len(contents) < 0.8


def test_random_windows_are_distributed_as_torchvisions():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.empty(3, 300, 400)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, (0.08, 1), (0.75, 4 / 3)) for _ in range(4000)]
    )
    window = RandomWindow((0.08, 1.0), (0.75, 4 / 3))
    generator = draw()
    boxes = np.array([window(400, 300, 224, generator).box for _ in range(4000)])
    ours = np.stack(
        [boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1
    )
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 400).all()
    assert (boxes[:, 3] <= 300).all()
    share = np.linspace(0.05, 0.95, 19)
    # top, left, height, width: the quantiles of both samples of 4,000 agree within their noise
    for one, other in zip(ours.T, theirs.T, strict=True):
        assert np.abs(np.quantile(one, share) - np.quantile(other, share)).max() < 10


@pytest.mark.parametrize(
    ("size", "box"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))]
)
def test_a_window_in_a_sliver_is_the_middle_at_the_nearest_shape(size, box):
    assert RandomWindow((0.9, 1.0), (0.75, 4 / 3))(*size, 224, draw()).box == box


@needs_photos
def test_scaled_decoding_shows_nearly_the_same():
    for path in photos(6):
        with Image.open(path) as image:
            width, height = image.size
        for window in (None, Fixed(0, 0, width, height), Fixed(width // 4, 0, width, height // 2)):
            exact = seen(path, window, 64).astype(float)
            scaled = seen(path, window, 64, is_scaled=True).astype(float)
            assert np.abs(exact - scaled).mean() < 8, path.name
            assert not np.array_equal(exact, scaled)


# --- odd files


def four_colours(size=(80, 60)):
    """Red, green, blue and white quarters: shows which way up an image is."""
    width, height = size
    image = Image.new("RGB", size, "white")
    image.paste("red", (0, 0, width // 2, height // 2))
    image.paste("lime", (width // 2, 0, width, height // 2))
    image.paste("blue", (0, height // 2, width // 2, height))
    return image


def corners(found):
    """The colours at the quarters' middles, roughly: top left, top right, bottom left, right."""
    places = list(itertools.product((4, 27), (4, 27)))
    return [tuple(int(v > 127) for v in found[place]) for place in places]


RED, LIME, BLUE, WHITE = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)
PLAIN = [RED, LIME, BLUE, WHITE]


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif"])
def test_a_photo_is_turned_as_its_camera_says(name, tmp_path):
    upright = four_colours()
    for orientation, turn in (
        (1, None),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
    ):
        stored = upright if turn is None else upright.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(tmp_path / name, exif=exif, quality=95)
        assert corners(seen(tmp_path / name, size=32, is_turned=True)) == PLAIN
    # as it is stored, which is how the published benchmarks read it; Pillow turns TIFF either way
    assert (corners(seen(tmp_path / name, size=32)) == PLAIN) is name.endswith(".tif")


def test_of_a_turned_photo_the_size_is_turned_too():
    for kind in ("JPEG", "TIFF"):
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6
        Image.new("RGB", (40, 20)).save(file, kind, exif=exif)
        turned = EncodedImage(file.getvalue(), is_turned=True)
        assert (turned.size, turned.pixels().shape) == ((20, 40), (40, 20, 3))


@pytest.mark.parametrize(("mode", "name"), [
    ("CMYK", "a.jpg"), ("P", "a.png"), ("P", "a.gif"), ("RGBA", "a.png"), ("YCbCr", "a.jpg"),
    ("RGB", "a.webp"), ("RGB", "a.bmp"), ("RGB", "a.tif"),
])  # fmt: skip
def test_every_kind_of_colour_looks_the_same(mode, name, tmp_path):
    four_colours().convert(mode).save(tmp_path / name)
    assert corners(seen(tmp_path / name, size=32)) == PLAIN


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode, tmp_path):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    image.convert(mode).save(tmp_path / "a.png")
    found = seen(tmp_path / "a.png", size=32)
    assert found[:, :10].max() < 10
    assert found[:, -10:].min() > 245


def test_a_transparent_colour_becomes_white(tmp_path):
    image = Image.new("RGB", (40, 40), (0, 0, 0))
    image.paste((255, 0, 255), (20, 0, 40, 40))
    image.save(tmp_path / "a.png", transparency=(255, 0, 255))
    found = seen(tmp_path / "a.png", size=32)
    assert found[:, :10].max() < 10
    assert found[:, -10:].min() > 245


def test_pixels_that_are_floats_are_refused(tmp_path):
    """0 to 1, or 0 to 255? One of the two would be black."""
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"\(F\) are of an unknown range; save it with 8 bits"):
        seen(tmp_path / "a.tif", size=32)
    Image.fromarray(np.full((40, 40), 200, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"\(I\) are of an unknown range; save it with 8 bits"):
        seen(tmp_path / "b.tif", size=32)


def test_a_file_for_ghostscript_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match="of no known format"):
        seen(tmp_path / "a.jpg", size=32)
    assert not is_image_name(tmp_path / "features.h5")
    assert is_image_name(tmp_path / "photo.JPG")


def test_of_a_sliver_the_middle_is_resized():
    """All of it would be 256 x 5,120,000."""
    cut = CentreWindow()(1, 20_000, 224, draw())
    assert cut == Cut((0, 9_968, 1, 10_032), (256, 256 * 64))
    assert CentreWindow()(1, 64, 224, draw()).box == (0, 0, 1, 64)


def test_an_odd_note_of_the_camera_does_not_matter(tmp_path):
    """Pillow would write all notes anew to turn the photo, and fail at this one."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0213] = 3, 1
    stored = four_colours().transpose(Image.Transpose.ROTATE_180)
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    short, long = (
        bytes.fromhex("0213000300000001 00010000"),
        bytes.fromhex("0213000400000001 7fffffff"),
    )
    content = (tmp_path / "photo.jpg").read_bytes()
    assert short in content
    (tmp_path / "photo.jpg").write_bytes(content.replace(short, long))
    assert corners(seen(tmp_path / "photo.jpg", size=32, is_turned=True)) == PLAIN


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_note_of_the_camera_is_said(tmp_path):
    """Of which Pillow's reader makes a TypeError."""
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    four_colours().save(path, exif=exif)
    whole = path.read_bytes()
    said = 0
    for at in range(whole.index(b"Exif"), whole.index(b"Exif") + 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x02]) + whole[at + 1 :])
        try:
            seen(path, size=32, is_turned=True)
        except DataError as error:
            said += "not readable as an image" in str(error)
    assert said


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_gray_of_sixteen_bits_keeps_its_shades(name, tmp_path):
    shades = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(np.tile(shades, (64, 1))).save(tmp_path / name)
    found = seen(tmp_path / name, size=56)  # resized to 64: as it is, without the border
    assert found.shape == (56, 56, 3)
    assert np.array_equal(found[0, :, 0], shades[4:60] >> 8)


def test_gray_of_one_bit_and_of_eight(tmp_path):
    for mode in ("1", "L"):
        four_colours().convert("L").point(lambda v: 255 * (v > 200)).convert(mode).save(
            tmp_path / "a.png"
        )
        assert corners(seen(tmp_path / "a.png", size=32)) == [(0, 0, 0)] * 3 + [WHITE]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_an_animation_the_first_frame_is_seen(name, tmp_path):
    four_colours().save(
        tmp_path / name, save_all=True, append_images=[Image.new("RGB", (80, 60), "black")] * 2
    )
    assert corners(seen(tmp_path / name, size=32)) == PLAIN


def test_an_image_beyond_pillows_limit_is_read_and_one_beyond_ours_is_named(tmp_path, monkeypatch):
    Image.new("L", (20_000, 9_000), 200).save(tmp_path / "huge.png")
    assert (seen(tmp_path / "huge.png", size=32) == 200).all()
    monkeypatch.setattr("lt_bench.data.images.MAX_PIXELS", 10_000_000)
    with pytest.raises(DataError, match=r"huge\.png: .* 20,000 x 9,000 pixels, at most 10,000,000"):
        seen(tmp_path / "huge.png")


def damaged():
    stream = io.BytesIO()
    four_colours((200, 200)).save(stream, "JPEG")
    jpeg = stream.getvalue()
    stream = io.BytesIO()
    four_colours((200, 200)).save(stream, "PNG")
    png = stream.getvalue()
    return {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "flipped.png": png[:60] + bytes([png[60] ^ 255]) + png[61:],
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "header.jpg": jpeg[:20],
    }


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("name", [*damaged(), "absent.jpg"])
def test_a_damaged_file_is_named(name, tmp_path):
    if name in damaged():
        (tmp_path / name).write_bytes(damaged()[name])
    with pytest.raises(DataError, match=f"{name}: not readable as an image: "):
        seen(tmp_path / name)


# --- colours


def test_colour_jitter_equals_torchvisions_changes_image_by_image():
    from torchvision.transforms import functional

    changes = (
        functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation
    )  # fmt: skip
    images = torch.rand(12, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    views = Views.plain(12, torch.device("cpu"))
    ColorJitter()(views, torch.Generator().manual_seed(2))
    (change,) = views.changes
    factor_NK, order_NK = change.args
    assert len({tuple(order) for order in order_NK.tolist()}) > 3
    for batch in (slice(0, 8), slice(8, 12)):
        found = change(images[batch], batch)
        for i in range(batch.start, batch.stop):
            expected = images[i]
            for kind in order_NK[i].tolist():
                expected = changes[kind](expected, float(factor_NK[i, kind]))
            torch.testing.assert_close(found[i - batch.start], expected, rtol=0, atol=1e-3)


def test_colour_jitter_draws_its_factors_evenly():
    views = Views.plain(40_000, torch.device("cpu"))
    ColorJitter(brightness=0.4, contrast=0, saturation=1)(views, torch.Generator().manual_seed(0))
    factor_NK, order_NK = views.changes[0].args
    assert factor_NK.amin(dim=0).tolist() == pytest.approx([0.6, 1, 0], abs=1e-3)
    assert factor_NK.amax(dim=0).tolist() == pytest.approx([1.4, 1, 2], abs=1e-3)
    assert factor_NK.mean(dim=0).tolist() == pytest.approx([1, 1, 1], abs=0.01)
    orders = (order_NK * torch.tensor([9, 3, 1])).sum(dim=1)
    counts = orders.bincount()[orders.unique()]
    assert len(counts) == 6
    assert (counts / 40_000 - 1 / 6).abs().max() < 0.01


# --- batches


@pytest.fixture
def few(tmp_path):
    paths = [f"{i}.jpg" for i in range(70)]
    for i, name in enumerate(paths):
        write_photo(tmp_path / name, seed=i, size=(24 + i % 5, 20))
    return ImageFiles(FolderReader(tmp_path, paths), paths, torch.arange(70), size=16)


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def loader(split, augment=(), **options):
    augment = tuple(Spec(*spec) for spec in augment)
    return FileLoader(
        split, batch_size=33, augment=augment, mean=MEAN, std=STD, device="cpu", **options
    )


def whole(batches):
    images, targets = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(targets)


def normalised(split, index):
    found = pixels(split.reader, index, CentreWindow(), size=split.size, draw=draw())
    image = torch.from_numpy(found.copy()).permute(2, 0, 1).float() / 255
    return (image - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)


def test_plain_gives_every_image_in_list_order_and_epoch_follows_the_order(few):
    given = loader(few, [("flip", {"probability": 1.0})])
    images, targets = whole(given.plain())
    assert torch.equal(targets, few.labels)
    assert len(given) == 3
    for i in (0, 33, 69):
        torch.testing.assert_close(images[i], normalised(few, i), rtol=0, atol=1e-5)
    order_N = torch.tensor([5, 5, 69, 0])
    mirrored, targets = whole(given.epoch(order_N, torch.Generator().manual_seed(1)))
    assert targets.tolist() == [5, 5, 69, 0]
    torch.testing.assert_close(mirrored, images[order_N].flip(3), rtol=0, atol=0)


ALL = [("random_resized_crop",), ("flip",), ("color_jitter",)]


def test_an_epoch_is_a_function_of_its_seed_whatever_the_workers_and_the_batches(few):
    order_N = torch.randperm(70, generator=torch.Generator().manual_seed(0))

    def epoch(given, seed):
        return whole(given.epoch(order_N, torch.Generator().manual_seed(seed)))[0]

    alone = loader(few, ALL)
    one, other = epoch(alone, 1), epoch(alone, 2)
    assert not torch.equal(one, other)
    for workers in (1, 2):
        shared = loader(few, ALL, workers=workers)
        assert torch.equal(epoch(shared, 2), other)
        assert torch.equal(epoch(shared, 1), one)
        assert torch.equal(whole(shared.plain())[0], whole(alone.plain())[0])


def test_an_image_seen_twice_in_an_epoch_is_cut_twice(few):
    order_N = torch.zeros(8, dtype=torch.int64)
    images, _ = whole(loader(few, ALL[:1]).epoch(order_N, torch.Generator().manual_seed(0)))
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_an_epoch_left_in_the_middle_does_not_disturb_the_next(few):
    order_N = torch.arange(70)
    given = loader(few, ALL, workers=2)
    next(given.epoch(order_N, torch.Generator().manual_seed(3)))
    again = whole(given.epoch(order_N, torch.Generator().manual_seed(3)))[0]
    fresh = whole(loader(few, ALL).epoch(order_N, torch.Generator().manual_seed(3)))[0]
    assert torch.equal(again, fresh)


def test_nobody_elses_random_numbers_are_used_up(few):
    torch.manual_seed(7)
    for workers in (0, 1):
        list(loader(few, ALL, workers=workers).epoch(torch.arange(70), torch.Generator()))
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))


def test_a_transform_of_the_other_kind_of_data_is_refused(few):
    with pytest.raises(ConfigError, match="'crop' shifts small images"):
        loader(few, [("crop",)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_the_gpu_equal_those_of_the_cpu(few):
    given = FileLoader(
        few, batch_size=33, augment=(Spec("random_resized_crop"),), mean=MEAN, std=STD,
        device="cuda", workers=2,
    )  # fmt: skip
    order_N = torch.arange(70).flip(0)
    images, targets = whole(given.epoch(order_N, torch.Generator("cuda").manual_seed(4)))
    expected, _ = whole(loader(few, ALL[:1]).epoch(order_N, torch.Generator().manual_seed(4)))
    assert torch.equal(targets.cpu(), order_N)
    torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-5)
