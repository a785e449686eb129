"""The plain CIFAR recipe beside the same in plain torch, written from its papers: every step equal.

What tables compare with published values is not a loss alone but all of it together: ResNet-32
with option-A shortcuts (He et al., 2016, section 4.2), warm-up and two late drops of the learning
rate, SGD that decays every parameter, LDAM's margins and normalised head, weights of effective
numbers from epoch 160 on (Cao et al., 2019; Cui et al., 2019).
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_bench.assembly import make_method, prepare
from lt_bench.data.profiles import class_counts
from lt_bench.optim import SCHEDULES, make_optimizer, set_learning_rate
from lt_bench.progress import Progress
from lt_bench.schema import bind

COUNTS = class_counts(100, 500, imbalance_factor=100)
STEPS = 85  # of an epoch: 10,847 images by 128
EPOCHS = 200


@pytest.fixture(autouse=True)
def in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.new = after // before, after - before
        self.first = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first_norm(self.first(x)).relu()
        inner = self.second_norm(self.second(inner))
        x = x[..., :: self.stride, :: self.stride]
        nothing = x.new_zeros(len(x), self.new // 2, *x.shape[2:])
        return (inner + torch.cat([nothing, x, nothing], dim=1)).relu()


def network() -> nn.Sequential:
    widths = [16, *[16] * 5, *[32] * 5, *[64] * 5]
    blocks = [Block(*pair) for pair in zip(widths, widths[1:], strict=False)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def rate(epoch: int) -> float:
    if epoch < 5:
        return 0.1 * (epoch + 1) / 5
    return 0.1 * (1 if epoch < 160 else 0.01 if epoch < 180 else 0.0001)


def cross_entropy_of(features: Tensor, head: nn.Linear, target: Tensor, epoch: int) -> Tensor:
    return F.cross_entropy(head(features), target)


def ldam_drw_of(features: Tensor, head: nn.Linear, target: Tensor, epoch: int) -> Tensor:
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    margin = counts**-0.25
    margin = 0.5 * margin / margin.max()
    cosine = F.cosine_similarity(features[:, None], head.weight, dim=2)
    lowered = cosine - F.one_hot(target, len(COUNTS)) * margin
    weight = torch.ones_like(counts)
    if epoch >= 160:
        weight = (1 - 0.9999) / (1 - 0.9999**counts)
        weight = weight / weight.mean()
    return F.cross_entropy(30 * lowered, target, weight=weight)


@pytest.mark.parametrize(
    ("overlay", "loss_of"), [("ce", cross_entropy_of), ("ldam_drw", ldam_drw_of)]
)
def test_steps_of_the_recipe_are_those_of_plain_torch(overlay, loss_of):
    config = prepare("cifar100_lt", overlay)
    method = make_method(config, SimpleNamespace(class_counts=COUNTS)).train()
    backbone, head = network(), nn.Linear(64, 100, bias=overlay == "ce")
    with torch.no_grad():
        for mine, ours in zip(backbone.parameters(), method.backbone.parameters(), strict=True):
            mine.copy_(ours)
        for mine, ours in zip(head.parameters(), method.head.parameters(), strict=True):
            mine.copy_(ours)
    optimizer = make_optimizer(
        list(method.backbone.parameters()), list(method.head.parameters()), [], config.optim
    )
    schedule = bind("schedule", config.optim.schedule, SCHEDULES)
    plain = torch.optim.SGD([*backbone.parameters(), *head.parameters()], momentum=0.9)
    plain.param_groups[0]["weight_decay"] = 2e-4
    generator = torch.Generator().manual_seed(0)
    for epoch, step in ((0, 0), (4, 84), (5, 0), (159, 84), (160, 0), (179, 84), (180, 0)):
        images = torch.randn(12, 3, 32, 32, generator=generator)
        target = torch.randint(100, (12,), generator=generator)
        progress = Progress(epoch * STEPS + step, EPOCHS * STEPS, STEPS)
        set_learning_rate(optimizer, schedule(progress))
        plain.param_groups[0]["lr"] = rate(epoch)
        ours, _ = method(images, target, progress)
        theirs = loss_of(backbone(images), head, target, epoch)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
        for each, loss in ((optimizer, ours), (plain, theirs)):
            each.zero_grad()
            loss.backward()
            each.step()
    for mine, ours in zip(
        (*backbone.state_dict().values(), *head.parameters()),
        (*method.backbone.state_dict().values(), *method.head.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(ours, mine, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("overlay", ["ce", "ldam_drw"])
def test_the_learning_rate_of_every_epoch_is_the_published_one(overlay):
    config = prepare("cifar100_lt", overlay)
    schedule = bind("schedule", config.optim.schedule, SCHEDULES)
    assert (config.optim.epochs, config.optim.batch_size, config.optim.lr) == (200, 128, 0.1)
    for epoch in range(EPOCHS):
        for step in (0, STEPS - 1):
            progress = Progress(epoch * STEPS + step, EPOCHS * STEPS, STEPS)
            assert 0.1 * schedule(progress) == pytest.approx(rate(epoch), rel=1e-12)
