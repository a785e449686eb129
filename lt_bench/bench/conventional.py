"""The other side of the comparisons: how the field's repositories usually write these loops.

Images pass one by one through Pillow and torchvision's transforms in a DataLoader, networks run in
float32 and contiguous, each step reads its loss and accuracies back, scores are loops over classes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score
from timm.utils import AverageMeter, accuracy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lt_bench.data.types import Split

Item = tuple[Any, int]


class PilImages(Dataset[Item]):
    """Images kept as an array, each made a Pillow image when it is asked for."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Any]) -> None:
        self.pixels = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def photo_transform(size: int, mean: Sequence[float], std: Sequence[float]) -> Any:
    crop_and_flip = (transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip())
    return plain_transform(mean, std, *crop_and_flip)


def train_transform(size: int, mean: Sequence[float], std: Sequence[float]) -> Any:
    crop_and_flip = (transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip())
    return plain_transform(mean, std, *crop_and_flip)


def plain_transform(mean: Sequence[float], std: Sequence[float], *before: object) -> Any:
    return transforms.Compose([*before, transforms.ToTensor(), transforms.Normalize(mean, std)])


class Meters:
    """The loss and both accuracies, each read back at every step."""

    def __init__(self) -> None:
        self.loss, self.top1, self.top5 = AverageMeter(), AverageMeter(), AverageMeter()

    def update(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        first, fifth = accuracy(logits.detach(), target, topk=(1, 5))
        for meter, value in ((self.loss, loss), (self.top1, first), (self.top5, fifth)):
            meter.update(value.item(), len(target))


def train_epoch(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> float:
    meters = Meters()
    model.train()
    for images, target in loader:
        images = images.to(device, non_blocking=True)
        target = target.to(device, non_blocking=True)
        logits = model(images)
        loss = F.cross_entropy(logits, target)
        meters.update(loss, logits, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(meters.loss.avg)


def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
) -> NDArray[np.float64]:
    """The accuracy of each class."""
    meters = Meters()
    all_predicted: list[int] = []
    all_targets: list[int] = []
    model.eval()
    with torch.no_grad():
        for images, target in loader:
            images = images.to(device, non_blocking=True)
            target = target.to(device, non_blocking=True)
            logits = model(images)
            meters.update(F.cross_entropy(logits, target), logits, target)
            all_predicted.extend(logits.max(1).indices.cpu().numpy())
            all_targets.extend(target.cpu().numpy())
    matrix = confusion_matrix(all_targets, all_predicted, labels=range(num_classes))
    per_class: NDArray[np.float64] = matrix.diagonal() / matrix.sum(axis=1).clip(min=1)
    return per_class


def scores(
    logits: Tensor, labels: NDArray[np.int64], train_labels: NDArray[np.int64]
) -> dict[str, float]:
    """Top-1, macro F1, and the mean class accuracy of each shot group, class by class."""
    predicted = F.softmax(logits, dim=1).max(dim=1).indices.cpu().numpy()
    groups: dict[str, list[float]] = {"many": [], "medium": [], "few": []}
    for label in np.unique(train_labels):
        num_train = len(train_labels[train_labels == label])
        total = len(labels[labels == label])
        if total == 0:
            continue
        correct = (predicted[labels == label] == labels[labels == label]).sum()
        group = "many" if num_train > 100 else "few" if num_train < 20 else "medium"
        groups[group].append(correct / total)
    found = {name: float(np.mean(values)) for name, values in groups.items() if values}
    found["top1"] = float((predicted == labels).mean())
    found["macro_f1"] = float(
        f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    )
    return found


def loader(
    dataset: PilImages | ImageFolder,
    *,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    num_drawn: int | None = None,
) -> DataLoader[Item]:
    """Batches in list order, or of `num_drawn` images drawn anew for each epoch."""
    drawn = RandomSampler(dataset, num_samples=num_drawn) if num_drawn else None
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=drawn,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
