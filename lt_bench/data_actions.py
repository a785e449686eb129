"""What `data check`, `data build` and `data pack` do."""

import argparse
from pathlib import Path

from lt_bench.assembly import load_data
from lt_bench.data.benchmarks import BENCHMARKS
from lt_bench.data.build import build_lists
from lt_bench.data.build_published import build_published
from lt_bench.data.check import check
from lt_bench.data.cifar import download_cifar
from lt_bench.data.folder import all_images
from lt_bench.data.pack import Format, pack_path, write_pack
from lt_bench.data.types import Report
from lt_bench.display import image_bar
from lt_bench.errors import ConfigError
from lt_bench.runtime import Runtime
from lt_bench.schema import Spec


def act(spec: Spec, where: Runtime, arguments: argparse.Namespace) -> Report:
    """The action of these arguments on the dataset of a recipe."""
    root = where.data_root
    _refuse_idle_flags(arguments)
    if arguments.action == "build":
        return _build(spec.name, root, arguments)
    if arguments.action == "pack":
        return _pack(spec, root, arguments, where.workers)
    if arguments.download:
        download_cifar(spec.name, root)
    return _check(spec, root, arguments, where.workers)


def _refuse_idle_flags(arguments: argparse.Namespace) -> None:
    """A flag that would do nothing is a mistake."""
    serves = {
        "lists": "build",
        "decode": "check",
        "format": "pack",
        "on_bad_image": "pack",
        "download": "build check",
    }
    for flag, actions in serves.items():
        is_given = getattr(arguments, flag) not in (None, False, "stop")
        if is_given and arguments.action not in actions.split():
            shown = flag.replace("_", "-")
            raise ConfigError(f"--{shown}: has no effect on data {arguments.action}; leave it out")


def _build(name: str, root: Path | None, arguments: argparse.Namespace) -> Report:
    if name in BENCHMARKS:
        return build_published(
            BENCHMARKS[name], root, folder=arguments.lists, download=arguments.download
        )
    if arguments.lists:
        raise ConfigError(f"--lists: has no effect on {name}, whose lists are made here")
    if arguments.download:
        download_cifar(name, root)
    return Report(tuple(build_lists(name, root)), ok=True)


def _check(spec: Spec, root: Path | None, arguments: argparse.Namespace, workers: int) -> Report:
    with image_bar(is_shown=arguments.decode) as tried:
        return check(spec, root, decode=arguments.decode, workers=workers, on_tried=tried)


def _pack(spec: Spec, root: Path | None, arguments: argparse.Namespace, workers: int) -> Report:
    if spec.options.get("layout") == "pack":
        raise ConfigError("data.layout: a pack is not packed again; leave it out")
    data = load_data(spec, root)
    if root is None:
        raise ConfigError(f"data pack: {spec.name} needs no files; there is nothing to pack")
    if data.name != spec.name:
        raise ConfigError(f"data pack: {data.name} cannot be packed; only a published list can")
    if not data.files:
        raise ConfigError(f"{data.name}: its images are kept in memory; there is nothing to pack")
    files, source = data.files, data.source
    if spec.name == "folder":  # whole, so that it serves whatever is held back and kept
        held, files = all_images(root, **spec.options)
        source = held.source
    path = pack_path(root / spec.options.get("path", ""), spec.name)
    form: Format = arguments.format or "jpeg"
    with image_bar(is_shown=True) as packed:
        return write_pack(
            files,
            path,
            dataset=data.name,
            class_names=data.class_names,
            source=source,
            form=form,
            workers=workers,
            on_bad_image=arguments.on_bad_image,
            on_packed=packed,
        )
