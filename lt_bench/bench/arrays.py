"""Speed of losses on logits alone, and of scores from the predictions of a large test split.

B batch, C classes, N test images.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lt_bench.bench import conventional
from lt_bench.bench.measure import Result, Row, side_by_side
from lt_bench.data.profiles import class_counts, shares_of_most
from lt_bench.kernels import first_argmax
from lt_bench.losses import LOSSES
from lt_bench.metrics import Tally, macro_f1, shot_accuracy, top1
from lt_bench.runtime import Runtime
from lt_bench.weighting import WEIGHTINGS, Objective

# batch and classes of CIFAR-100-LT, ImageNet-LT, iNaturalist 2018
SHAPES = ((128, 100), (512, 1000), (512, 8142))
# times F.cross_entropy, at most, where the classes are many enough for memory to be the cost
GOALS = {"ldam": 2.4, "recall": 1.4, "seql": 4.5, "balanced_softmax": 1.3}
GOALS_FROM_CLASSES = 1000

# a Pareto profile between iNaturalist's 1,000 and 2 images of a class has nearly its total
INAT_TEST_IMAGES, INAT_CLASSES = 24_426, 8142
INAT_LARGEST, INAT_FACTOR = 1000, 500
CHUNK = 512


def losses(
    where: Runtime, *, rounds: int = 9, shapes: tuple[tuple[int, int], ...] = SHAPES
) -> Result:
    """Forward and backward of every loss, each beside F.cross_entropy alone.

    In pairs, since one loss leaves the allocator in a state that the next ones feel.
    """
    rows = []
    for num_samples, num_classes in shapes:
        counts_C = torch.tensor(class_counts(num_classes, 1280, imbalance_factor=256))
        drawn = torch.Generator().manual_seed(0)
        # within -1..1, so that they serve as cosines too
        logits_BC = 2 * torch.rand(num_samples, num_classes, generator=drawn) - 1
        logits_BC = logits_BC.to(where.device).requires_grad_()
        target_B = torch.multinomial(counts_C.float(), num_samples, True, generator=drawn)
        target_B = target_B.to(where.device)
        baseline = _forward_backward(F.cross_entropy, logits_BC, target_B)
        for name, criterion in _criteria(counts_C).items():
            ours = _forward_backward(criterion.to(where.device), logits_BC, target_B)
            taken = side_by_side(
                {"ours": ours, "conventional": baseline},
                rounds=rounds,
                device=where.device,
                least_seconds=0.02,
            )
            row = Row(
                f"{name} ({num_samples}, {num_classes})",
                "cost",
                taken["ours"],
                conventional=taken["conventional"],
                goal=GOALS.get(name) if num_classes >= GOALS_FROM_CLASSES else None,
            )
            rows.append(row)
    setting = "forward + backward of (batch, classes) logits in fp32; conventional: F.cross_entropy"
    return Result(setting, rows)


def metrics(
    where: Runtime,
    *,
    rounds: int = 3,
    images: int = INAT_TEST_IMAGES,
    num_classes: int = INAT_CLASSES,
) -> Result:
    """From the logits of a test split to top-1, shot accuracies and macro F1."""
    shares = shares_of_most(num_classes, "pareto", INAT_FACTOR)
    counts = [int(INAT_LARGEST * share) for share in shares]
    train_labels_N = np.repeat(np.arange(num_classes), counts)
    np.random.default_rng(0).shuffle(train_labels_N)
    labels_N = np.arange(images) % num_classes
    drawn = torch.Generator().manual_seed(0)
    logits_NC = torch.rand(images, num_classes, generator=drawn)
    # half of them right
    logits_NC[torch.arange(0, images, 2), torch.from_numpy(labels_N[::2])] = 2.0
    taken = side_by_side(
        {
            "ours": lambda: our_scores(logits_NC, labels_N, counts),
            "conventional": lambda: conventional.scores(logits_NC, labels_N, train_labels_N),
        },
        rounds=rounds,
    )
    row = Row(
        "logits to scores", "speedup", taken["ours"], conventional=taken["conventional"], goal=25.0
    )
    return Result(
        f"{images:,} x {num_classes:,} logits, {len(train_labels_N):,} training labels; "
        "conventional: softmax of all of them, then class by class as OLTR and its descendants do",
        [row],
    )


def our_scores(
    logits_NC: Tensor, labels_N: NDArray[np.int64], counts: list[int]
) -> dict[str, float]:
    """As evaluation and reports do it: predictions batch by batch, counts, then the scores."""
    predicted_N = torch.cat(
        [first_argmax(logits_BC) for logits_BC in torch.split(logits_NC, CHUNK)]
    )
    tally = Tally.of(labels_N, predicted_N.numpy(), len(counts))
    groups = shot_accuracy(tally, counts)
    found = {name: value for name, value in groups.items() if value is not None}
    return {**found, "top1": top1(tally), "macro_f1": macro_f1(tally)}


def _criteria(counts_C: Tensor) -> dict[str, nn.Module]:
    """Every loss by itself, and cross-entropy weighed by recall."""
    found: dict[str, nn.Module] = {name: loss(counts_C) for name, loss in LOSSES.items()}
    recall = WEIGHTINGS["recall"](counts_C)
    found["recall"] = Objective(LOSSES["ce"](counts_C), recall, "weighted_mean")
    return found


def _forward_backward(
    criterion: Callable[[Tensor, Tensor], Tensor], logits_BC: Tensor, target_B: Tensor
) -> Callable[[], None]:
    def once() -> None:
        logits_BC.grad = None
        torch.autograd.backward(criterion(logits_BC, target_B).mean())

    return once
