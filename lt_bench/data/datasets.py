"""Every dataset by name."""

from collections.abc import Callable, Mapping

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
