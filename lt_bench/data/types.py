"""What a dataset builder returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lt_bench.data.images import CentreWindow, ImageReader, Window


@dataclass(frozen=True)
class Split:
    """Images that fit in memory: `images` uint8 (N, channels, height, width), `labels` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageFiles:
    """Images that are read when they are needed, and seen at `size` x `size` pixels.

    `listed` are their canonical paths, by which the identity of a split is known. `is_scaled`: JPEG
    decoding shrinks large images, which is faster and gives other pixels. `window` is what an
    evaluation sees of each.
    """

    reader: ImageReader
    listed: Sequence[str]
    labels: Tensor
    size: int = 224
    is_scaled: bool = False
    window: Window = CentreWindow()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def items(self) -> list[tuple[str, int]]:
        """The canonical path and the label of each image."""
        return list(zip(self.listed, self.labels.tolist(), strict=True))

    def only(self, indices: Sequence[int]) -> "ImageFiles":
        """Those at these positions, in this order."""
        return replace(
            self,
            reader=self.reader.only(indices),
            listed=[self.listed[i] for i in indices],
            labels=self.labels[torch.tensor(indices, dtype=torch.int64)],
        )


@dataclass(frozen=True)
class Report:
    """What a `data` verb found: lines for a person, and whether nothing is missing."""

    lines: tuple[str, ...]
    ok: bool


@dataclass(frozen=True)
class LongTailData:
    """A long-tailed benchmark split, verified.

    `class_counts` are the training images per class, by label; `identity` the sha256 of each
    split's sorted, layout-normalised lines; `mean` and `std` per channel for pixels in 0..1;
    `source` says where the images were found.
    """

    name: str
    train: Split | ImageFiles
    val: Split | ImageFiles | None
    test: Split | ImageFiles
    class_names: Sequence[str]
    class_counts: Sequence[int]
    identity: Mapping[str, str]
    mean: Sequence[float]
    std: Sequence[float]
    source: str

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    @property
    def files(self) -> dict[str, ImageFiles]:
        """The splits that are read from files, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if isinstance(split, ImageFiles)}
