"""Makes the committed lists of the datasets whose subsets are defined here: digits and CIFAR."""

import json
from pathlib import Path
from typing import Any

from lt_bench.config import ROOT
from lt_bench.data import cifar_sources, digits, lists
from lt_bench.data.benchmarks import BENCHMARKS
from lt_bench.data.cifar import FAMILIES, check_complete
from lt_bench.data.lists import Item
from lt_bench.data.profiles import class_counts
from lt_bench.errors import ConfigError, DataError
from lt_bench.files import write_text_whole
from lt_bench.metrics import shot_groups

FACTORS = (10, 20, 50, 100, 200)


def build_lists(dataset: str, root: Path | None) -> list[str]:
    """Write `data_lists/<dataset>/*.txt` and `data_lists/<dataset>.json` from all of the images.

    Returns:
        Lines that say what was written.

    Raises:
        DataError: the images are not those of the lists already published.
    """
    train, test, facts = _digits() if dataset == "digits_lt" else _cifar(dataset, root)
    before = lists.published(dataset)
    for split in ("train", "test"):
        if before and (found := facts[split]["identity"]) != before[split]["identity"]:
            raise DataError(
                f"{dataset} {split}: identity {found[:16]} of the images in "
                f"{facts['made_from']}, {before[split]['identity'][:16]} published in "
                f"data_lists/{dataset}.json; take the official data unchanged"
            )
    texts = {
        f"{dataset}/train.txt": lists.as_text(train),
        f"{dataset}/test.txt": lists.as_text(test),
    }
    if before is None:
        texts[f"{dataset}.json"] = as_json(facts)
    for name, text in texts.items():
        write_text_whole(lists.LISTS / name, text)
    folder = lists.LISTS.relative_to(ROOT) if lists.LISTS.is_relative_to(ROOT) else lists.LISTS
    return [
        f"{dataset}: {facts[split]['images']:,} {split} images, "
        f"identity {facts[split]['identity'][:16]}"
        for split in ("train", "test")
    ] + [f"wrote {folder / name}" for name in texts]


def repeats(train: list[Item], test: list[Item]) -> dict[str, int]:
    """How often the same pixels come more than once in a dataset."""
    labels: dict[str, list[int]] = {}
    for image, label in train:
        labels.setdefault(image, []).append(label)
    repeated = [of_image for of_image in labels.values() if len(of_image) > 1]
    return {
        "train_images_repeated": len(repeated),
        "of_them_under_two_labels": sum(len(set(of_image)) > 1 for of_image in repeated),
        "test_images_in_train": sum(image in labels for image, _ in test),
    }


def as_json(facts: dict[str, Any]) -> str:
    """JSON with a line for each fact, since a count per line would be thousands of lines."""
    lines = []
    for key, value in facts.items():
        if key == "profiles":
            inner = ",\n".join(
                f"    {json.dumps(name)}: {json.dumps(profile)}" for name, profile in value.items()
            )
            lines.append(f'  "profiles": {{\n{inner}\n  }}')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _digits() -> tuple[list[Item], list[Item], dict[str, Any]]:
    pool, test = digits.pool_and_test(lists.items_of(digits.read_scans()))
    train = lists.ranked(pool, num_classes=digits.NUM_CLASSES, subset_seed=0)
    names = [str(digit) for digit in range(digits.NUM_CLASSES)]
    return train, test, _facts("digits_lt", digits.SOURCE, names, train, test, digits.N_MAX)


def _cifar(dataset: str, root: Path | None) -> tuple[list[Item], list[Item], dict[str, Any]]:
    if dataset not in FAMILIES:
        raise ConfigError(
            f"data build: no lists are made for {dataset!r}; known: "
            f"{', '.join(('digits_lt', *FAMILIES, *BENCHMARKS))}"
        )
    family = FAMILIES[dataset]
    source = cifar_sources.find(family, root)[0]
    all_train, all_test = source.read()
    check_complete(family, source, all_train, all_test)
    items = lists.items_of(all_train)
    train = lists.ranked(items, num_classes=family.num_classes, subset_seed=0)
    test = lists.by_label(lists.items_of(all_test))
    names = list(family.class_names)
    facts = _facts(dataset, source.name, names, train, test, family.train_per_class)
    return train, test, facts


def _facts(
    dataset: str,
    made_from: str,
    class_names: list[str],
    train: list[Item],
    test: list[Item],
    n_max: int,
) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "made_from": made_from,
        "class_names": class_names,
        "train": _split_facts(train),
        "test": _split_facts(test),
        "repeats": repeats(train, test),
        "profiles": dict(_profiles(train, len(class_names), n_max)),
    }


def _split_facts(items: list[Item]) -> dict[str, Any]:
    return {
        "images": len(items),
        "identity": lists.identity(items),
        "ranking": lists.ranking(items),
    }


def _profiles(train: list[Item], num_classes: int, n_max: int) -> Any:
    for imbalance_type in ("exponential", "step"):
        for factor in FACTORS:
            if factor > n_max:
                continue  # would leave classes empty
            counts = class_counts(
                num_classes, n_max, imbalance_factor=factor, imbalance_type=imbalance_type
            )
            groups = shot_groups(counts)
            yield (
                f"{imbalance_type}-{factor}",
                {
                    "images": sum(counts),
                    **{name: len(classes) for name, classes in groups.items()},
                    "identity": lists.identity(lists.first(train, counts, place="train")),
                    "class_counts": counts,
                },
            )
