"""Parameter groups and schedules."""

import inspect

import pytest
import torch
from torch import nn

from lt_bench.config import OptimConfig
from lt_bench.errors import ConfigError
from lt_bench.optim import SCHEDULES, cosine, make_optimizer, set_learning_rate
from lt_bench.progress import Progress
from lt_bench.schema import Spec, build

LDAM = {"warmup_epochs": 5, "milestones": (0.8, 0.9), "factors": (0.01, 0.0001)}


def test_cosine_falls_from_one_towards_zero():
    values = [cosine(Progress(i, 100, 10)) for i in range(100)]
    assert values[0] == 1
    assert values[50] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 0.001


@pytest.mark.parametrize(
    "schedule",
    [s for s in SCHEDULES.values() if "warmup_epochs" in inspect.signature(s).parameters],
)
def test_warm_up_is_a_stair_per_epoch(schedule):
    moments = [Progress(step, 100, 10) for step in (0, 9, 10, 39, 40)]
    shares = [schedule(at, warmup_epochs=4) / schedule(at, warmup_epochs=0) for at in moments]
    assert shares == pytest.approx([0.25, 0.25, 0.5, 1, 1])
    from_half = [schedule(at, warmup_epochs=4, warmup_start=0.5) / schedule(at) for at in moments]
    assert from_half == pytest.approx([0.625, 0.625, 0.75, 1, 1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_start_of_no_warm_up_is_refused(name):
    with pytest.raises(ConfigError, match=r"^schedule\.warmup_start: 0\.5 has no effect"):
        build("schedule", Spec(name, {"warmup_start": 0.5}), SCHEDULES, Progress())


@pytest.mark.parametrize("milestones", [(0.8,), (0.9, 0.8)])
def test_milestones_must_rise_and_pair_with_factors(milestones):
    spec = Spec("step", {"milestones": list(milestones), "factors": [0.1, 0.01]})
    with pytest.raises(ConfigError, match=r"^schedule\.milestones: .* must rise and pair"):
        build("schedule", spec, SCHEDULES, Progress())


def test_groups_keep_their_own_rate_and_decay():
    backbone, head = nn.Linear(2, 2), nn.Linear(2, 2)
    config = OptimConfig(lr=0.1, backbone_lr_factor=0.01, weight_decay=5e-4, nesterov=True)
    optimizer = make_optimizer(
        list(backbone.parameters()), list(head.parameters()), [head.bias], config
    )
    set_learning_rate(optimizer, 0.5)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found == {
        id(backbone.weight): (pytest.approx(0.0005), 5e-4),
        id(backbone.bias): (pytest.approx(0.0005), 5e-4),
        id(head.weight): (0.05, 5e-4),
        id(head.bias): (0.05, 0.0),
    }


def test_sgd_takes_torchs_own_step():
    mine, reference = nn.Linear(3, 3), nn.Linear(3, 3)
    reference.load_state_dict(mine.state_dict())
    config = OptimConfig(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)
    ours = make_optimizer([], list(mine.parameters()), [], config)
    theirs = torch.optim.SGD(
        reference.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2
    )
    for _ in range(3):
        for model, optimizer in ((mine, ours), (reference, theirs)):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            set_learning_rate(optimizer, 1) if optimizer is ours else None
            optimizer.step()
    torch.testing.assert_close(mine.weight, reference.weight)
