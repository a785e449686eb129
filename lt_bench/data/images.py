"""Image files: opened, turned upright, brought to RGB, cut and resized with Pillow's pixels."""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lt_bench.errors import DataError

# Pillow's own limit is for uploads by strangers; scans and panoramas of one's own are larger.
Image.MAX_IMAGE_PIXELS = None
MAX_PIXELS = 1_000_000_000

EXIF_ORIENTATION, UPRIGHT = 0x0112, 1

# what Pillow raises for damaged files of the formats it reads
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


class Reader(Protocol):
    """The images of a split, opened by position and not yet decoded."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """For messages: which image this is."""
        ...

    def open(self, index: int) -> Image.Image: ...

    def num_bytes(self, index: int) -> int: ...

    def content(self, index: int) -> bytes:
        """The file as it is stored."""
        ...

    def only(self, indices: Sequence[int]) -> "Reader":
        """Those at these positions, in this order."""
        ...


@dataclass(frozen=True)
class FolderReader:
    """Image files below a folder.

    `is_turned`: a photo is turned as its camera says. Not for the published benchmarks, whose
    numbers are for the pixels as they are stored.
    """

    folder: Path
    paths: Sequence[str]
    is_turned: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.folder / self.paths[index])

    def open(self, index: int) -> Image.Image:
        image: Image.Image = Image.open(self.folder / self.paths[index])
        if self.is_turned and image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT:
            with image:
                return ImageOps.exif_transpose(image)
        return image

    def num_bytes(self, index: int) -> int:
        return (self.folder / self.paths[index]).stat().st_size

    def content(self, index: int) -> bytes:
        return (self.folder / self.paths[index]).read_bytes()

    def only(self, indices: Sequence[int]) -> "FolderReader":
        return replace(self, paths=[self.paths[i] for i in indices])


@dataclass(frozen=True)
class Cut:
    """A box (left, top, right, bottom) of an image, the size it is resized to; the middle stays."""

    box: tuple[int, int, int, int]
    resized: tuple[int, int]


class Window(Protocol):
    """Says which part of an image of this width and height is seen, at `size` x `size` pixels."""

    def __call__(self, width: int, height: int, size: int, draw: np.random.Generator) -> Cut: ...


@dataclass(frozen=True)
class CentreWindow:
    """The short side resized to 8/7 of the size (256 for 224), the middle square."""

    def __call__(self, width: int, height: int, size: int, draw: np.random.Generator) -> Cut:
        return Cut((0, 0, width, height), with_short_side(width, height, round(size * 8 / 7)))


@dataclass(frozen=True)
class RandomWindow:
    """A box of random area and aspect ratio, as "Inception" crops are drawn."""

    scale: tuple[float, float]
    ratio: tuple[float, float]

    TRIES = 10

    def __call__(self, width: int, height: int, size: int, draw: np.random.Generator) -> Cut:
        for _ in range(self.TRIES):
            area = width * height * draw.uniform(*self.scale)
            aspect = math.exp(draw.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = int(draw.integers(height - h, endpoint=True))
                left = int(draw.integers(width - w, endpoint=True))
                return Cut((left, top, left + w, top + h), (size, size))
        # no box of such a shape fits: the middle, as near to the wanted shapes as it can be
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        left, top = (width - w) // 2, (height - h) // 2
        return Cut((left, top, left + w, top + h), (size, size))


def pixels(
    reader: Reader,
    index: int,
    window: Window,
    *,
    size: int,
    draw: np.random.Generator,
    is_scaled: bool = False,
) -> NDArray[np.uint8]:
    """What the window shows of an image: uint8 (size, size, 3).

    Args:
        is_scaled: let the JPEG decoder shrink the image first, as far as the window allows:
            faster, not the same pixels.

    Raises:
        DataError: the file is missing, damaged or no image.
    """
    with unreadable_as(reader, index), reader.open(index) as image:
        refuse_huge(image)
        cut = window(*image.size, size, draw)
        return np.asarray(_cut_out(image, cut, size, is_scaled))


@contextmanager
def unreadable_as(reader: Reader, index: int) -> Iterator[None]:
    """What Pillow raises for a damaged file becomes an error that names the file."""
    try:
        yield
    except UNREADABLE as error:
        raise DataError(
            f"{reader.name(index)}: not readable as an image: {error}; replace it, or leave it "
            "out with --on-bad-image skip"
        ) from error


def with_short_side(width: int, height: int, short: int) -> tuple[int, int]:
    """Width and height with the short side as given; the long one truncated, as is customary."""
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue; what is transparent becomes white.

    Of an animation the first frame. Gray of 16 bits keeps its high ones, where Pillow would clip.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        high = (np.asarray(image) >> 8).clip(0, 255)
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def refuse_huge(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{image.width:,} x {image.height:,} pixels, at most {MAX_PIXELS:,} are read"
        )


def _cut_out(image: Image.Image, cut: Cut, size: int, is_scaled: bool) -> Image.Image:
    box, (width, height) = cut.box, image.size
    if is_scaled:
        across = cut.resized[0] / (box[2] - box[0])
        down = cut.resized[1] / (box[3] - box[1])
        image.draft(None, (math.ceil(width * across), math.ceil(height * down)))
        to_x, to_y = image.width / width, image.height / height
        left, top = int(box[0] * to_x), int(box[1] * to_y)
        right, bottom = max(left + 1, round(box[2] * to_x)), max(top + 1, round(box[3] * to_y))
        box = (left, top, right, bottom)
    image = to_rgb(image)
    if box != (0, 0, *image.size):
        image = image.crop(box)  # first, or the filter would reach beyond the box
    image = image.resize(cut.resized, Image.Resampling.BILINEAR)
    if cut.resized != (size, size):
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    return image
