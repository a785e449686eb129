"""Samplers: pure functions of labels, progress and generator."""

import pytest
import torch

from lt_bench.progress import Progress
from lt_bench.samplers import SAMPLERS, class_balanced, progressive, square_root

COUNTS = (60, 25, 10, 4, 1)
LABELS = torch.repeat_interleave(torch.arange(5), torch.tensor(COUNTS))[torch.randperm(100)]
LATE = Progress(90, 100, 10)


def draw(sampler, progress=LATE, seed=0, epochs=1, **options):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([sampler(LABELS, progress, generator, **options) for _ in range(epochs)])


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_generator_same_order_and_one_epoch_of_indices(name):
    order = draw(SAMPLERS[name])
    assert torch.equal(order, draw(SAMPLERS[name]))
    assert not torch.equal(order, draw(SAMPLERS[name], seed=1))
    assert order.shape == LABELS.shape
    assert order.dtype == torch.int64
    assert int(order.min()) >= 0
    assert int(order.max()) < len(LABELS)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [2, 2, 5]], ids=str)
def test_corners(name, labels):
    order = SAMPLERS[name](torch.tensor(labels), LATE, torch.Generator().manual_seed(0))
    assert len(order) == len(labels)
    assert set(order.tolist()) <= set(range(len(labels)))


def test_instance_takes_every_image_once():
    assert draw(SAMPLERS["instance"]).sort().values.tolist() == list(range(100))


@pytest.mark.parametrize(
    ("sampler", "progress", "expected"),
    [
        (class_balanced, LATE, [0.2] * 5),
        (square_root, LATE, [c**0.5 / sum(n**0.5 for n in COUNTS) for c in COUNTS]),
        (progressive, Progress(0, 100, 10), [c / 100 for c in COUNTS]),
        (progressive, LATE, [0.2] * 5),
        (progressive, Progress(40, 90, 10), [0.5 * c / 100 + 0.5 * 0.2 for c in COUNTS]),
    ],
)
def test_class_frequencies(sampler, progress, expected):
    drawn = LABELS[draw(sampler, progress, epochs=400)]
    share = torch.bincount(drawn, minlength=5) / len(drawn)
    # 40,000 draws: five standard deviations of a share of 0.6 are 0.012
    assert torch.allclose(share, torch.tensor(expected, dtype=share.dtype), atol=0.013)


@pytest.mark.parametrize("sampler", [class_balanced, square_root])
def test_images_of_a_class_are_walked_without_replacement(sampler):
    order = draw(sampler)
    for label, count in enumerate(COUNTS):
        visits = order[LABELS[order] == label].tolist()
        for first in range(0, len(visits), count):
            images = visits[first : first + count]
            assert len(set(images)) == len(images)


def test_run_length_draws_a_class_in_rows():
    labels = LABELS[draw(class_balanced, run_length=4)]
    assert all(len(set(labels[i : i + 4].tolist())) == 1 for i in range(0, 100, 4))


@pytest.mark.parametrize("sampler", [class_balanced, square_root, progressive])
def test_deferred_resampling_begins_exactly_at_start(sampler):
    before = draw(sampler, Progress(79, 100, 1), start=0.8)
    assert before.sort().values.tolist() == list(range(100))
    # a progressive one begins with its first step: at its start it draws as before
    first = 81 if sampler is progressive else 80
    after = draw(sampler, Progress(first, 100, 1), start=0.8)
    assert after.sort().values.tolist() != list(range(100))


@pytest.mark.parametrize("sampler", [class_balanced, progressive])
def test_the_epoch_that_holds_the_start_is_the_first_resampled_one(sampler):
    """A fraction of training that falls between epochs must not defer for ever."""
    every_image = list(range(100))
    assert draw(sampler, Progress(10, 30, 10), start=0.8).sort().values.tolist() == every_image
    last = draw(sampler, Progress(20, 30, 10), epochs=400, start=0.5)
    share = torch.bincount(LABELS[last], minlength=5) / len(last)
    assert torch.allclose(share, torch.full((5,), 0.2), atol=0.013)


def test_progressive_goes_from_instance_at_start_to_class_balanced():
    drawn = LABELS[draw(progressive, Progress(80, 100, 10), epochs=400, start=0.8)]
    share = torch.bincount(drawn, minlength=5) / len(drawn)
    assert torch.allclose(share, torch.tensor(COUNTS) / 100, atol=0.013)
