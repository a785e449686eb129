"""Changes of pixels: AutoAugment and Cutout."""

import pytest
import torch

from lt_bench.assembly import prepare
from lt_bench.data.loading import ResidentLoader
from lt_bench.data.types import Split
from lt_bench.runtime import generator, seed_everything
from lt_bench.schema import Spec


def batch(*augment, images=None, seed=0):
    if images is None:
        images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    split = Split(images, torch.arange(len(images)))
    loader = ResidentLoader(
        split, batch_size=len(images), augment=augment, mean=[0] * 3, std=[1] * 3, device="cpu"
    )
    seed_everything(seed)
    return next(iter(loader.epoch(torch.arange(len(images)), generator("cpu", seed))))[0]


def test_cutout_cuts_a_square_whose_centre_is_anywhere():
    images = torch.zeros(4000, 3, 16, 16, dtype=torch.uint8)
    cut = batch(Spec("cutout", {"length": 6, "fill": 0.5}), images=images) == 0.5
    assert bool((cut == cut[:, :1]).all())  # all channels alike
    rows, columns = cut[:, 0].any(dim=2).sum(1), cut[:, 0].any(dim=1).sum(1)
    assert torch.equal(cut[:, 0].sum(dim=(1, 2)), rows * columns)  # a rectangle
    assert rows.max() == columns.max() == 6
    assert rows.min() == columns.min() == 3  # half of it beyond the edge
    share = cut[:, 0].float().mean(0)
    inner, corner = share[6:10, 6:10].mean(), share[0, 0]
    assert float(inner) == pytest.approx((6 / 16) ** 2, abs=0.02)
    assert float(corner) == pytest.approx((4 / 16) ** 2, abs=0.02)


def test_auto_augment_draws_for_each_image_of_its_own():
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    seen = batch(Spec("auto_augment"), images=image.expand(64, -1, -1, -1).clone())
    assert len(torch.unique(seen.flatten(1), dim=0)) > 20
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1 + 1e-6
    again = batch(Spec("auto_augment"), images=image.expand(64, -1, -1, -1).clone())
    other = batch(Spec("auto_augment"), images=image.expand(64, -1, -1, -1).clone(), seed=1)
    assert torch.equal(seen, again)
    assert not torch.equal(seen, other)


@pytest.mark.parametrize("variant", ["strong", "eql"])
def test_the_strong_recipes_augment_in_the_published_order(variant):
    names = [spec.name for spec in prepare(f"cifar100_lt:{variant}", "seql").augment]
    assert names == ["crop", "flip", "auto_augment", "cutout"]


def test_seql_has_the_papers_threshold_in_the_papers_recipe():
    assert prepare("cifar100_lt:eql", "seql").objective.loss.options["threshold"] == 3e-3
    assert prepare("cifar100_lt", "seql").objective.loss.options["tail_ratio"] == 0.05
