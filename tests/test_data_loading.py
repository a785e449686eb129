"""Batches from a resident split: the right pixels, in the right order, without waiting."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lt_bench.data.loading import ResidentLoader
from lt_bench.data.transforms import TRANSFORMS, Crop, Flip, Views
from lt_bench.data.types import Split
from lt_bench.schema import Spec, build

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def split(num_images=70, channels=3, height=9, width=7):
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, channels, height, width)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(0, 5, (num_images,), generator=generator))


def loader(data, augment=(), batch_size=16, device="cpu", **options):
    channels = data.images.shape[1]
    return ResidentLoader(
        data,
        batch_size=batch_size,
        augment=tuple(augment),
        mean=MEAN[:channels],
        std=STD[:channels],
        device=device,
        **options,
    )


def normalised(images, channels=3):
    mean, std = (torch.tensor(v[:channels]).view(-1, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_gives_every_image_once_in_list_order(channels):
    data = split(channels=channels)
    given = loader(data)
    batches = list(given.plain())
    assert [len(target_B) for _, target_B in batches] == [16, 16, 16, 16, 6]
    assert len(given) == 5
    images, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, normalised(data.images, channels), rtol=0, atol=1e-5)
    assert torch.equal(targets, data.labels)
    assert torch.equal(given.labels, data.labels)


def test_epoch_follows_the_given_order():
    data = split()
    order_N = torch.tensor([3, 3, 69, 0, 12])
    ((images, target_B),) = loader(data).epoch(order_N, torch.Generator())
    torch.testing.assert_close(images, normalised(data.images[order_N]), rtol=0, atol=1e-5)
    assert torch.equal(target_B, data.labels[order_N])


@pytest.mark.parametrize("padding", [1, 4, 12])
def test_crop_and_flip_equal_a_padded_window_cut_image_by_image(padding):
    data = split()
    augment = [Spec("crop", {"padding": padding}), Spec("flip")]
    order_N = torch.randperm(70, generator=torch.Generator().manual_seed(4))
    batches = loader(data, augment).epoch(order_N, torch.Generator().manual_seed(5))
    found = torch.cat([images for images, _ in batches])

    views = Views.plain(70, torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    Crop(padding=padding)(views, generator)
    Flip()(views, generator)
    for n, i in enumerate(order_N.tolist()):
        image = data.images[i].numpy()
        image = image[:, :, ::-1] if views.mirrored_N[n] else image
        padded = np.pad(image, ((0, 0), (padding,) * 2, (padding,) * 2))
        top = padding - int(views.down_N[n])
        left = padding - int(views.right_N[n])
        window = padded[:, top : top + 9, left : left + 7]
        expected = normalised(torch.from_numpy(window.copy()))
        torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-5)


def test_crop_reaches_every_offset_alike_and_flip_half_of_the_images():
    views = Views.plain(90_000, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    Crop(padding=4)(views, generator)
    Flip()(views, generator)
    cells = (views.down_N + 4) * 9 + views.right_N + 4
    counts = torch.bincount(cells, minlength=81)
    assert len(counts) == 81
    assert abs(counts / (90_000 / 81) - 1).max() < 0.15  # about 4.5 standard deviations
    assert abs(views.mirrored_N.float().mean() - 0.5) < 0.01


@pytest.mark.parametrize(("probability", "mirrored"), [(0.0, False), (1.0, True)])
def test_flip_never_or_always(probability, mirrored):
    data = split()
    given = loader(data, [Spec("flip", {"probability": probability})])
    images = torch.cat([images for images, _ in given.epoch(torch.arange(70), torch.Generator())])
    expected = normalised(data.images.flip(-1) if mirrored else data.images)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_same_generator_same_batches_and_evaluation_is_never_augmented():
    data = split()
    given = loader(data, [Spec("crop"), Spec("flip")])

    def epoch(seed):
        batches = given.epoch(torch.arange(70), torch.Generator().manual_seed(seed))
        return torch.cat([images for images, _ in batches])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))
    plain = torch.cat([images for images, _ in given.plain()])
    torch.testing.assert_close(plain, normalised(data.images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_draws_from_its_generator_alone_and_within_its_margin(name):
    transform = build("transform", Spec(name), TRANSFORMS)
    drawn = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        views = Views.plain(500, torch.device("cpu"))
        transform(views, torch.Generator().manual_seed(3))
        drawn.append(views)
    one, other = drawn
    for shift_N, again_N in ((one.down_N, other.down_N), (one.right_N, other.right_N)):
        assert torch.equal(shift_N, again_N)
        assert int(shift_N.abs().max()) == transform.margin
    assert torch.equal(one.mirrored_N, other.mirrored_N)
    assert bool(one.mirrored_N.any()) == transform.mirrors


class Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for a device's values."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select")
        self.count += func.overloadpacket.__name__ in waiting
        return func(*args, **(kwargs or {}))


def test_an_epoch_reads_no_value_back():
    given = loader(split(), [Spec("crop"), Spec("flip")])
    with Waits() as waits:
        for _ in given.epoch(torch.arange(70), torch.Generator()):
            pass
        assert waits.count == 0
        given.labels[0].item()
    assert waits.count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_epoch_on_the_gpu_never_synchronises_and_equals_the_cpu():
    data = split()
    augment = [Spec("crop"), Spec("flip", {"probability": 1.0})]
    given = loader(data, augment, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    order_N = torch.arange(70)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(given.epoch(order_N, generator))
        plain = list(given.plain())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(batches) == len(given)
    images = torch.cat([images for images, _ in plain]).cpu()
    torch.testing.assert_close(images, normalised(data.images), rtol=0, atol=1e-5)
