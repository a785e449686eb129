"""Speed of a CIFAR run: its epoch, its augmentation, its test pass, on images made up here."""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_bench.bench import conventional
from lt_bench.bench.measure import Result, Row, one_thread, pass_through, side_by_side
from lt_bench.config import OptimConfig
from lt_bench.data.loading import ResidentLoader
from lt_bench.data.profiles import class_counts
from lt_bench.data.types import Split
from lt_bench.evaluate import evaluate, folded_backbone
from lt_bench.losses import LOSSES
from lt_bench.methods import Method, OneStage, Parts
from lt_bench.models.cifar_resnet import CifarResNet
from lt_bench.models.heads import LinearHead
from lt_bench.optim import make_optimizer
from lt_bench.progress import Progress
from lt_bench.runtime import Runtime, usable_cores
from lt_bench.samplers import instance
from lt_bench.schema import Spec
from lt_bench.train import fit
from lt_bench.weighting import WEIGHTINGS, Objective

# CIFAR-100-LT at imbalance factor 100, in shape; what the pixels show costs nothing
COUNTS = class_counts(100, 500, imbalance_factor=100)
SIZE = 32
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
AUGMENT = (Spec("crop", {"padding": 4}), Spec("flip"))
# the recipe's but for the learning rate: pixels that show nothing must not make it diverge
OPTIM = OptimConfig(epochs=1, batch_size=128, lr=0.01, momentum=0.9, weight_decay=2e-4)
CONVENTIONAL_TEST_BATCH = 100


def step(where: Runtime, *, rounds: int = 8, steps: int = 8, depth: int = 32) -> Result:
    """An epoch of training and its parts, from `steps` steps of it.

    Where `where` compiles, an epoch of that as well.

    Goals: 2 x the conventional loop on CPU and 8 x on a GPU; forward and backward take 98 % or
    95 % of a step, so that nothing else is worth a thought.
    """
    is_cpu = where.device.type == "cpu"
    workers = 0 if is_cpu else min(8, usable_cores())
    split = _images(COUNTS)
    per_epoch = len(split) / (steps * OPTIM.batch_size)
    contenders = {"conventional": _conventional_steps(split, where, workers, steps, depth)}
    settings = _precisions(replace(where, compiled=False))
    for setting in settings:
        contenders[setting.precision] = _our_steps(split, setting, steps, depth)
        contenders[f"limit {setting.precision}"] = _bare_steps(setting, steps, depth)
    compiled = f"{where.precision} compiled"
    if where.compiled:
        contenders[compiled] = _our_steps(split, where, steps, depth)
    seconds = {
        name: [per_epoch * taken for taken in series]
        for name, series in side_by_side(contenders, rounds=rounds, device=where.device).items()
    }
    rows = []
    for setting in settings:
        name = setting.precision
        ours, limit = seconds[name], seconds[f"limit {name}"]
        goal = 1.2 if name == "fp32" else 2.0
        rows += [
            Row(
                f"epoch, {name}",
                "speedup",
                ours,
                conventional=seconds["conventional"],
                limit=limit,
                goal=goal if is_cpu else 8.0 if name != "fp32" else None,
            ),
            Row(
                f"forward + backward of an epoch, {name}",
                "share",
                ours,
                limit=limit,
                goal=0.98 if is_cpu else 0.95,
            ),
        ]
    if where.compiled:
        ours, theirs = seconds[compiled], seconds["conventional"]
        goal = 2.0 if is_cpu else 8.0
        rows.append(Row(f"epoch, {compiled}", "speedup", ours, conventional=theirs, goal=goal))
    rows.append(_optimizer_step(where, rounds, depth))
    return Result(
        f"CIFAR-100-LT in shape, {len(split):,} images, ResNet-{depth}, batch {OPTIM.batch_size}, "
        f"{steps} steps scaled to an epoch; conventional: fp32, contiguous, a DataLoader with "
        f"{workers} workers, Pillow, .item() every step; limit: forward and backward alone",
        rows,
    )


def augment(where: Runtime, *, rounds: int = 15, batches: int = 8) -> Result:
    """Crop, flip and normalisation of a batch, on one thread where it is the CPU's."""
    seconds = augmentation(where, rounds, batches)
    row = Row(
        f"crop, flip, normalise {OPTIM.batch_size} images",
        "speedup",
        seconds["ours"],
        conventional=seconds["conventional"],
        goal=12.0,
    )
    setting = "uint8 32x32 to float batches; conventional: Pillow and torchvision, in the process"
    return Result(setting, [row])


def augmentation(where: Runtime, rounds: int, batches: int) -> dict[str, list[float]]:
    """Seconds of an augmented batch, ours and conventional."""
    size = OPTIM.batch_size
    split = _images(COUNTS)
    order_N = torch.randperm(len(split))[: batches * size]
    ours = _loader(split, where, augmented=True)
    transform = conventional.train_transform(SIZE, MEAN, STD)
    theirs = conventional.loader(
        conventional.PilImages(split, transform),
        batch_size=size,
        device=where.device,
        num_drawn=batches * size,
    )
    with one_thread():
        taken = side_by_side(
            {
                "ours": lambda: pass_through(ours.epoch(order_N, torch.Generator(where.device))),
                "conventional": lambda: pass_through(iter(theirs)),
            },
            rounds=rounds,
            device=where.device,
        )
    return {name: [s / batches for s in series] for name, series in taken.items()}


def evaluation(where: Runtime, *, rounds: int = 6, images: int = 2_000, depth: int = 32) -> Result:
    """Evaluation of a test split, and what folding the batch norms gains."""
    num_classes = len(COUNTS)
    split = _images([images // num_classes] * num_classes)
    model = _plain_network(depth).to(where.device)
    theirs = conventional.loader(
        conventional.PilImages(split, conventional.plain_transform(MEAN, STD)),
        batch_size=CONVENTIONAL_TEST_BATCH,
        device=where.device,
    )
    contenders: dict[str, Callable[[], object]] = {
        "conventional": lambda: conventional.evaluate(model, theirs, num_classes, where.device)
    }
    settings = _precisions(where)
    for setting in settings:
        method, ours = _method(setting, depth), _loader(split, setting, augmented=False)
        name = setting.precision
        contenders[name] = functools.partial(evaluate, method, ours, num_classes, setting)
        method.eval()
        contenders[f"as it is {name}"] = functools.partial(_forward, method, split, setting)
        contenders[f"folded {name}"] = functools.partial(_folded_forward, method, split, setting)
    seconds = side_by_side(contenders, rounds=rounds, device=where.device)
    rows = []
    for setting in settings:
        name = setting.precision
        rows += [
            Row(
                f"test pass, {name}",
                "speedup",
                seconds[name],
                conventional=seconds["conventional"],
                limit=seconds[f"folded {name}"],
                goal=2.3 if setting is settings[0] else None,
            ),
            Row(
                f"folded batch norm, {name}",
                "speedup",
                seconds[f"folded {name}"],
                conventional=seconds[f"as it is {name}"],
            ),
        ]
    return Result(
        f"{len(split):,} images, ResNet-{depth}; conventional: fp32, batch "
        f"{CONVENTIONAL_TEST_BATCH}, Pillow, .item() every step (below: the forward pass with "
        "batch norms as they are); limit: the forward pass alone",
        rows,
    )


def _conventional_steps(
    split: Split, where: Runtime, workers: int, steps: int, depth: int
) -> Callable[[], object]:
    model = _plain_network(depth).to(where.device)
    loader = conventional.loader(
        conventional.PilImages(split, conventional.train_transform(SIZE, MEAN, STD)),
        batch_size=OPTIM.batch_size,
        device=where.device,
        workers=workers,
        num_drawn=steps * OPTIM.batch_size,
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=OPTIM.lr, momentum=OPTIM.momentum, weight_decay=OPTIM.weight_decay
    )
    return lambda: conventional.train_epoch(model, loader, optimizer, where.device)


def _our_steps(split: Split, where: Runtime, steps: int, depth: int) -> Callable[[], object]:
    """The training loop itself, in an epoch cut short by its sampler."""
    method, loader = _method(where, depth), _loader(split, where, augmented=True)

    def first_steps(labels_N: Tensor, progress: Progress, generator: torch.Generator) -> Tensor:
        return instance(labels_N, progress, generator)[: steps * OPTIM.batch_size]

    return lambda: fit(method, loader, first_steps, OPTIM, 0, where)


def _bare_steps(where: Runtime, steps: int, depth: int) -> Callable[[], object]:
    """Forward and backward of one batch that is there already: no step can take less."""
    method = _method(where, depth).train()
    images, target_B = next(iter(_loader(_images([128]), where, augmented=False).plain()))

    def forward_backward() -> None:
        for _ in range(steps):
            with where.autocast():
                logits = method.predict(images)
            torch.autograd.backward(F.cross_entropy(logits.float(), target_B))
            method.zero_grad(set_to_none=True)

    return forward_backward


def _optimizer_step(where: Runtime, rounds: int, depth: int) -> Row:
    """Our optimiser beside SGD as it is built by default."""
    method = _method(where, depth)
    fused = make_optimizer(
        list(method.backbone.parameters()), list(method.head.parameters()), (), OPTIM
    )
    plain = torch.optim.SGD(
        copy.deepcopy(list(method.parameters())),
        lr=OPTIM.lr,
        momentum=OPTIM.momentum,
        weight_decay=OPTIM.weight_decay,
    )
    for optimizer in (fused, plain):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 1e-3)
    taken = side_by_side(
        {"ours": fused.step, "conventional": plain.step}, rounds=rounds, device=where.device
    )
    return Row(
        "optimiser step", "speedup", taken["ours"], conventional=taken["conventional"], goal=1.0
    )


def _precisions(where: Runtime) -> list[Runtime]:
    """The machine at the precision of a run, then in fp32."""
    return [replace(where, precision=name) for name in dict.fromkeys([where.precision, "fp32"])]


def _images(counts: list[int]) -> Split:
    labels = torch.repeat_interleave(torch.tensor(counts))
    drawn = torch.Generator().manual_seed(0)
    shape = (len(labels), 3, SIZE, SIZE)
    return Split(torch.randint(256, shape, dtype=torch.uint8, generator=drawn), labels)


def _loader(split: Split, where: Runtime, *, augmented: bool) -> ResidentLoader:
    return ResidentLoader(
        split,
        batch_size=OPTIM.batch_size,
        augment=AUGMENT if augmented else (),
        mean=MEAN,
        std=STD,
        device=where.device,
    )


def _plain_network(depth: int) -> nn.Module:
    backbone = CifarResNet(depth=depth)
    return nn.Sequential(backbone, LinearHead(backbone.num_features, len(COUNTS)))


def _method(where: Runtime, depth: int) -> Method:
    counts_C = torch.tensor(COUNTS)
    objective = Objective(LOSSES["ce"](counts_C), WEIGHTINGS["uniform"](counts_C), "mean")
    backbone = CifarResNet(depth=depth)
    head = LinearHead(backbone.num_features, len(COUNTS))
    return where.place(OneStage(Parts(backbone, head, objective, counts_C, backbone.num_features)))


def _forward(method: Method, split: Split, where: Runtime) -> None:
    """As many images as the split holds, one batch of them over and over."""
    batch = OPTIM.batch_size
    images = torch.zeros(batch, 3, SIZE, SIZE, device=where.device)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), where.autocast():
        for at in range(0, len(split), batch):
            method.predict(images[: len(split) - at])


def _folded_forward(method: Method, split: Split, where: Runtime) -> None:
    with folded_backbone(method):
        _forward(method, split, where)
