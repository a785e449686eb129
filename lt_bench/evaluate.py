"""Evaluation: counts and bins on the device, read once.

Shapes: N images, B batch, C classes, K of the most probable ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from lt_bench.data.loading import Loader
from lt_bench.errors import RunError
from lt_bench.kernels import first_argmax
from lt_bench.methods import Method
from lt_bench.metrics import SCORE_BINS, TOP_LABEL_BINS, Bins, Tally, bin_edges
from lt_bench.models.folding import Foldable
from lt_bench.record import SplitResult
from lt_bench.runtime import Runtime


@torch.no_grad()
def evaluate(method: Method, loader: Loader, num_classes: int, where: Runtime) -> SplitResult:
    """Predict every image of a split in list order with the method's one inference branch.

    Raises:
        RunError: the scores are not finite, ruined by the last step, whose loss nobody saw.
    """
    method.eval()
    with folded_backbone(method):
        return _evaluate(method, loader, num_classes, where)


@contextmanager
def folded_backbone(method: Method) -> Iterator[None]:
    """Meanwhile the method predicts without batch norms, where its backbone can be folded."""
    backbone = method.backbone
    if isinstance(backbone, Foldable):
        method.backbone = backbone.folded()
    try:
        yield
    finally:
        method.backbone = backbone


def _evaluate(method: Method, loader: Loader, num_classes: int, where: Runtime) -> SplitResult:
    predicted, in_top5 = [], []
    top_label = BinSums(TOP_LABEL_BINS, where.device)
    score = BinSums(SCORE_BINS, where.device)
    nll = torch.zeros((), dtype=torch.float64, device=where.device)
    for images, target_B in loader.plain():
        with where.autocast():
            logits_BC = method.predict(images)
        predicted_B = first_argmax(logits_BC)
        logits_BC = logits_BC.double()
        top_BK = logits_BC.topk(min(5, num_classes), dim=1).indices
        is_right_B = predicted_B == target_B
        predicted.append(predicted_B)
        # of equal logits topk may take others than the one that is predicted
        in_top5.append((top_BK == target_B[:, None]).any(dim=1) | is_right_B)

        probability_BC = method.probabilities(logits_BC)
        of_target_B = probability_BC.gather(1, target_B[:, None])[:, 0]
        nll -= of_target_B.clamp(min=torch.finfo(torch.float64).tiny).log().sum()
        top_label.add(probability_BC.max(dim=1).values, is_right_B)
        is_target_BC = target_B[:, None] == torch.arange(num_classes, device=where.device)
        score.add(probability_BC.flatten(), is_target_BC.flatten())

    if not nll.isfinite():
        raise RunError("the trained network gives scores that are not finite; lower optim.lr")
    labels_N, predicted_N = loader.labels, torch.cat(predicted)
    top5_C = torch.bincount(labels_N[torch.cat(in_top5)], minlength=num_classes)
    return SplitResult.of(
        Tally.of(labels_N.cpu().numpy(), predicted_N.cpu().numpy(), num_classes),
        top5_correct=top5_C.cpu().numpy(),
        labels_predicted=predicted_N.cpu().numpy(),
        top_label=top_label.read(),
        score=score.read(),
        nll=float(nll) / len(labels_N),
    )


class BinSums:
    """metrics.Bins, summed on the device."""

    def __init__(self, num_bins: int, device: torch.device | None = None) -> None:
        self.inner_edges = torch.from_numpy(bin_edges(num_bins)[1:-1]).to(device)
        self.sums = torch.zeros(3, num_bins, dtype=torch.float64, device=device)

    def add(self, probability: Tensor, is_right: Tensor) -> None:
        index = torch.bucketize(probability, self.inner_edges, right=True)
        parts = torch.stack([torch.ones_like(probability), probability, is_right.double()])
        self.sums.index_add_(1, index, parts)

    def read(self) -> Bins:
        count, confidence, correct = self.sums.cpu().numpy()
        return Bins(count.astype(np.int64), confidence, correct.astype(np.int64))
