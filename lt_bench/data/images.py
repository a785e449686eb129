"""Image files: opened, turned upright, brought to RGB, cut and resized with Pillow's pixels.

Plain JPEG is decoded by simplejpeg where that is installed (the extra "jpeg"), to the same pixels
in less time; all else by Pillow, and so is what simplejpeg refuses. Resizing is torch's, on bytes:
within 1 of 255 of Pillow's.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lt_bench.errors import DataError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# Pillow's own limit is for uploads by strangers; scans and panoramas of one's own are larger.
Image.MAX_IMAGE_PIXELS = None
MAX_PIXELS = 1_000_000_000
SLIVER = 64  # times as long as it is wide

EXIF_ORIENTATION = 0x0112
TURNS = {2 + i: Image.Transpose(turn) for i, turn in enumerate((0, 3, 1, 5, 4, 6, 2))}

# Pillow has no pixels of these, or has Ghostscript run what is in them
NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# what Pillow raises for damaged files of the formats it reads
UNREADABLE = (
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    RuntimeError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
)

Pixels = NDArray[np.uint8]  # (height, width, 3): red, green, blue


class EncodedImage:
    """The content of an image file. Opened when made, decoded when asked for."""

    def __init__(self, content: bytes, *, is_turned: bool = False) -> None:
        self.content = content
        try:
            self.image: Image.Image = Image.open(io.BytesIO(content), formats=formats())
        except UnidentifiedImageError:
            raise ValueError("of no known format" if content else "empty") from None
        refuse_huge(self.image)
        if is_turned and self.image.format == "TIFF":
            self.image.load()  # which turns this format, and no other, and then says so
        # not by exif_transpose, which writes all notes anew and fails at odd ones
        turn = TURNS.get(self.image.getexif().get(EXIF_ORIENTATION, 1)) if is_turned else None
        if turn is not None:
            self.image = self.image.transpose(turn)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    @property
    def is_jpeg(self) -> bool:
        """JPEG of red, green and blue, or of gray, as it is seen."""
        return self.image.format == "JPEG" and self.image.mode in ("RGB", "L")

    def pixels(self, at_least: tuple[int, int] | None = None) -> Pixels:
        """All of it; a JPEG decoder may shrink it, down to `at_least` this width and height."""
        if at_least:
            self.image.draft(None, at_least)
        elif simplejpeg and self.is_jpeg:
            with suppress(ValueError):  # refused: Pillow reads it, or says what is wrong
                decoded: Pixels = simplejpeg.decode_jpeg(self.content, "RGB")
                return decoded
        return np.array(to_rgb(self.image))


@dataclass(frozen=True)
class Decoded:
    """An image that is stored as its pixels."""

    stored: Pixels

    is_jpeg = False

    @property
    def size(self) -> tuple[int, int]:
        return self.stored.shape[1], self.stored.shape[0]

    def pixels(self, at_least: tuple[int, int] | None = None) -> Pixels:
        return self.stored


Stored = EncodedImage | Decoded


class ImageReader(Protocol):
    """The images of a split, opened by position and not yet decoded."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """For messages: which image this is."""
        ...

    def open(self, index: int) -> Stored: ...

    def num_bytes(self, index: int) -> int: ...

    def content(self, index: int) -> bytes:
        """The file as it is stored."""
        ...

    def only(self, indices: Sequence[int]) -> "ImageReader":
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

    def open(self, index: int) -> Stored:
        return EncodedImage(self.content(index), is_turned=self.is_turned)

    def num_bytes(self, index: int) -> int:
        return (self.folder / self.paths[index]).stat().st_size

    def content(self, index: int) -> bytes:
        return (self.folder / self.paths[index]).read_bytes()

    def only(self, indices: Sequence[int]) -> "FolderReader":
        return replace(self, paths=[self.paths[i] for i in indices])


def is_image_name(path: Path) -> bool:
    """Whether the name ends as those of a format that Pillow reads."""
    return Image.registered_extensions().get(path.suffix.lower()) in formats()


@lru_cache
def formats() -> list[str]:
    """The formats that are read."""
    Image.init()
    return [name for name in Image.OPEN if name not in NOT_READ]


@dataclass(frozen=True)
class Cut:
    """A box (left, top, right, bottom) of an image, the size it is resized to; the middle stays."""

    box: tuple[int, int, int, int]
    resized: tuple[int, int]


@dataclass(frozen=True)
class CentreWindow:
    """The short side resized to `scale` of the size (256 for 224), the middle square."""

    scale: float = 8 / 7

    def __call__(self, width: int, height: int, size: int, draw: np.random.Generator) -> Cut:
        # of a sliver only a part is resized, since all of it would take gigabytes
        w, h = min(width, SLIVER * height), min(height, SLIVER * width)
        left, top = (width - w) // 2, (height - h) // 2
        resized = with_short_side(w, h, round(size * self.scale))
        return Cut((left, top, left + w, top + h), resized)


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


# says which part of an image of some width and height is seen, at `size` x `size` pixels
Window = CentreWindow | RandomWindow


def pixels(
    reader: ImageReader,
    index: int,
    window: Window,
    *,
    size: int,
    draw: np.random.Generator,
    is_scaled: bool = False,
) -> Pixels:
    """What the window shows of an image: uint8 (size, size, 3).

    Args:
        is_scaled: let the JPEG decoder shrink the image first, as far as the window allows:
            faster, not the same pixels.

    Raises:
        DataError: the file is missing, damaged or no image.
    """
    with unreadable_as(reader, index):
        stored = reader.open(index)
        width, height = stored.size
        cut = window(width, height, size, draw)
        left, top, right, bottom = cut.box
        at_least = None
        if is_scaled:
            across, down = cut.resized[0] / (right - left), cut.resized[1] / (bottom - top)
            at_least = math.ceil(width * across), math.ceil(height * down)
        whole = stored.pixels(at_least)
    to_x, to_y = whole.shape[1] / width, whole.shape[0] / height
    left, top = int(left * to_x), int(top * to_y)
    right, bottom = max(left + 1, round(right * to_x)), max(top + 1, round(bottom * to_y))
    shown = resized(whole[top:bottom, left:right], cut.resized)
    top, left = (round((side - size) / 2) for side in shown.shape[:2])
    return shown[top : top + size, left : left + size]


def resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Brought to this width and height, bilinear and without aliasing, as Pillow resizes.

    The filter does not reach beyond the image: of a part, only the part is seen.
    """
    width, height = size
    if image.shape[:2] == (height, width):
        return image
    # a copy, since a part is not contiguous and a memory-mapped one not writable
    image_1CHW = torch.from_numpy(image.copy())[None].permute(0, 3, 1, 2)
    shown_1CHW = F.interpolate(image_1CHW, (height, width), mode="bilinear", antialias=True)
    return shown_1CHW[0].permute(1, 2, 0).numpy()


@contextmanager
def unreadable_as(reader: ImageReader, index: int) -> Iterator[None]:
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
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError(f"its pixels ({image.mode}) are of an unknown range; save it with 8 bits")
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
