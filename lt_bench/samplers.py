"""Samplers: one epoch of image indices as a pure function of labels, progress and generator.

N training images, C classes. Every sampler returns N indices.
"""

import torch
from torch import Generator, Tensor

from lt_bench.progress import Progress
from lt_bench.schema import Count, Start


def instance(labels_N: Tensor, progress: Progress, generator: Generator) -> Tensor:
    """Every image once, in random order."""
    return torch.randperm(len(labels_N), generator=generator)


def class_balanced(
    labels_N: Tensor,
    progress: Progress,
    generator: Generator,
    *,
    run_length: Count = 1,
    start: Start = 0.0,
) -> Tensor:
    """Every class equally often, its images without replacement (Kang et al., 2020, section 3).

    Args:
        run_length: images drawn in a row from a drawn class; 4 is the habit of the published code.
        start: instance-balanced before the epoch that holds this fraction of training (deferred
            resampling, DRS).
    """
    return _by_class_power(labels_N, progress, generator, 0.0, run_length, start)


def square_root(
    labels_N: Tensor,
    progress: Progress,
    generator: Generator,
    *,
    run_length: Count = 1,
    start: Start = 0.0,
) -> Tensor:
    """A class in proportion to the square root of its count (Kang et al., 2020, eq. 1, q = 1/2)."""
    return _by_class_power(labels_N, progress, generator, 0.5, run_length, start)


def progressive(
    labels_N: Tensor, progress: Progress, generator: Generator, *, start: Start = 0.0
) -> Tensor:
    """From instance-balanced in the first epoch to class-balanced in the last (ibid., eq. 2)."""
    first = _first_epoch(start, progress)
    if progress.epoch < first:
        return instance(labels_N, progress, generator)
    share = (progress.epoch - first) / max(progress.num_epochs - 1 - first, 1)
    count_C = torch.bincount(labels_N).double()
    by_class_C = (count_C > 0) / (count_C > 0).sum()
    return _draw(labels_N, (1 - share) * count_C / count_C.sum() + share * by_class_C, generator, 1)


def _by_class_power(
    labels_N: Tensor,
    progress: Progress,
    generator: Generator,
    power: float,
    run_length: int,
    start: float,
) -> Tensor:
    if progress.epoch < _first_epoch(start, progress):
        return instance(labels_N, progress, generator)
    count_C = torch.bincount(labels_N).double()
    return _draw(labels_N, count_C.pow(power) * (count_C > 0), generator, run_length)


def _first_epoch(start: float, progress: Progress) -> int:
    """The epoch that holds this fraction of training: a sampler acts on whole epochs."""
    return int(start * progress.num_epochs + 1e-9)


def _draw(labels_N: Tensor, probability_C: Tensor, generator: Generator, run_length: int) -> Tensor:
    """Draw classes, then walk through each class's images, shuffled anew for every round."""
    total, num_classes = len(labels_N), len(probability_C)
    draws = -(-total // run_length)
    drawn_N = torch.multinomial(probability_C, draws, replacement=True, generator=generator)
    drawn_N = drawn_N.repeat_interleave(run_length)[:total]

    images_of, places_of = _by_class(labels_N, num_classes), _by_class(drawn_N, num_classes)
    sizes = [  # of each class's walk: as many rounds as it needs
        len(images) * -(-len(places) // max(len(images), 1))
        for images, places in zip(images_of, places_of, strict=True)
    ]
    keys = torch.split(torch.randperm(sum(sizes), generator=generator).argsort(), sizes)
    order_N = torch.empty_like(drawn_N)
    for images, places, key in zip(images_of, places_of, keys, strict=True):
        if len(places):
            rounds = key.view(-1, len(images)).argsort()  # each a shuffle of the class
            order_N[places] = images[rounds].flatten()[: len(places)]
    return order_N


def _by_class(labels_N: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """The positions of each class's labels."""
    counts_C = torch.bincount(labels_N, minlength=num_classes)
    return torch.split(torch.argsort(labels_N, stable=True), counts_C.tolist())


SAMPLERS = {
    "instance": instance,
    "class_balanced": class_balanced,
    "square_root": square_root,
    "progressive": progressive,
}
