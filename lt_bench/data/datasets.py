"""Every dataset by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lt_bench.data import cifar, digits
from lt_bench.data.benchmarks import BENCHMARKS, IMAGENET_MEAN, IMAGENET_STD
from lt_bench.data.cifar import cifar10_lt, cifar100_lt
from lt_bench.data.digits import digits_lt
from lt_bench.data.folder import folder
from lt_bench.data.listed import imagenet_lt, inat2018, places_lt
from lt_bench.data.types import LongTailData

DATASETS: Mapping[str, Callable[..., LongTailData]] = {
    "digits_lt": digits_lt,
    "cifar10_lt": cifar10_lt,
    "cifar100_lt": cifar100_lt,
    "imagenet_lt": imagenet_lt,
    "places_lt": places_lt,
    "inat2018": inat2018,
    "folder": folder,
}


@dataclass(frozen=True)
class Preprocessing:
    """What a network of a dataset is given of an image: pixels in 0..1, less mean, over std.

    As many channels as `mean` has. The short side is resized to `size` and the middle square
    taken; where there is no `size`, an image is resized and cut as for the recipe's evaluation.
    """

    mean: Sequence[float]
    std: Sequence[float]
    size: int | None = None


PREPROCESSING: Mapping[str, Preprocessing] = {
    "digits_lt": Preprocessing(digits.MEAN, digits.STD, size=8),
    "cifar10_lt": Preprocessing(cifar.MEAN, cifar.STD, size=32),
    "cifar100_lt": Preprocessing(cifar.MEAN, cifar.STD, size=32),
    **{name: Preprocessing(one.mean, one.std) for name, one in BENCHMARKS.items()},
    "folder": Preprocessing(IMAGENET_MEAN, IMAGENET_STD),
}
