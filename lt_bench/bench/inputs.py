"""Speed of reading images: from JPEG files, from packs, and of small ones kept on the device."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from lt_bench.bench import conventional
from lt_bench.bench.measure import Result, Row, one_thread, pass_through, side_by_side
from lt_bench.bench.training import MEAN, OPTIM, STD, augmentation
from lt_bench.data.file_loading import FileLoader
from lt_bench.data.images import FolderReader
from lt_bench.data.pack import Format, PackReader, write_pack
from lt_bench.data.types import ImageFiles, LongTailData
from lt_bench.runtime import Runtime
from lt_bench.schema import Spec

WIDTH, HEIGHT, QUALITY = 500, 375, 95
AUGMENT = (Spec("random_resized_crop"), Spec("flip"))
BATCH = 64
PACKS: tuple[Format, ...] = ("jpeg", "uint8")
# times the conventional pipeline from the files, at least
GOALS = {"files": 2.0, "jpeg pack": 3.5, "uint8 pack": 10.0, "device": 12.0}


def inputs(where: Runtime, *, rounds: int = 7, images: int = 128, batches: int = 8) -> Result:
    """Images per second of one core, from where they lie to normalised batches on the device."""
    has_packs = importlib.util.find_spec("pyarrow") is not None
    with TemporaryDirectory() as name:
        data = photos(Path(name), images)
        sources = {"files": data.files["train"]}
        for form in PACKS if has_packs else ():
            sources[f"{form} pack"] = _packed(data, Path(name), form)
        contenders = {"conventional": _conventional(Path(name) / "train", where)}
        for source, split in sources.items():
            contenders[source] = _ours(split, where)
            if source != "uint8 pack":
                contenders[f"{source}, decoded"] = _decoded(split)
        with one_thread():
            taken = side_by_side(contenders, rounds=rounds, device=where.device)
    rate = {source: [images / s for s in series] for source, series in taken.items()}
    small = {
        side: [OPTIM.batch_size / s for s in series]
        for side, series in augmentation(where, rounds, batches).items()
    }
    rows = [
        Row(
            f"{WIDTH}x{HEIGHT} JPEG from {source}",
            "rate",
            rate[source],
            conventional=rate["conventional"],
            limit=rate.get(f"{source}, decoded"),
            goal=GOALS[source],
            unit="images/s",
        )
        for source in sources
    ]
    rows.append(
        Row(
            "32x32 kept on the device",
            "rate",
            small["ours"],
            conventional=small["conventional"],
            goal=GOALS["device"],
            unit="images/s",
        )
    )
    decoder = "simplejpeg" if importlib.util.find_spec("simplejpeg") else "Pillow"
    without = "" if has_packs else "; packs left out: pyarrow is not installed"
    return Result(
        f"one core, {images} photos made up here, random-resized crop to 224, flip, normalise; "
        f"conventional: Pillow and torchvision from the files; limit: {decoder} decodes and no "
        f"more is done{without}",
        rows,
    )


def photos(folder: Path, num_images: int) -> LongTailData:
    """JPEG files with the size in bytes of ImageNet's: soft shapes with a little texture."""
    drawn = np.random.default_rng(0)
    (folder / "train/any").mkdir(parents=True)
    (folder / "test/any").mkdir(parents=True)
    train = [f"train/any/{i}.jpg" for i in range(num_images)]
    test = ["test/any/0.jpg"]
    for path in train + test:
        shapes, texture = (
            Image.fromarray(drawn.integers(0, 256, shape, dtype=np.uint8)).resize(
                (WIDTH, HEIGHT), Image.Resampling.BICUBIC
            )
            for shape in ((6, 8, 3), (HEIGHT // 2, WIDTH // 2, 3))
        )
        Image.blend(shapes, texture, 0.2).save(folder / path, "JPEG", quality=QUALITY)

    def split(own: list[str]) -> ImageFiles:
        return ImageFiles(FolderReader(folder, own), own, torch.zeros(len(own), dtype=torch.int64))

    return LongTailData(
        name="photos",
        train=split(train),
        val=None,
        test=split(test),
        class_names=("any",),
        class_counts=(num_images,),
        identity={},
        mean=MEAN,
        std=STD,
        source="made up",
    )


def _packed(data: LongTailData, folder: Path, form: Format) -> ImageFiles:
    """The training images from a pack of this form."""
    train = data.files["train"]
    path = folder / f"{form}.pack"
    write_pack(data, path, form=form, workers=1)
    return replace(train, reader=PackReader(path, range(len(train))))


def _ours(split: ImageFiles, where: Runtime) -> Callable[[], object]:
    loader = FileLoader(
        split,
        batch_size=BATCH,
        augment=AUGMENT,
        mean=MEAN,
        std=STD,
        device=where.device,
    )
    order_N = torch.randperm(len(split))
    return lambda: pass_through(loader.epoch(order_N, torch.Generator(where.device)))


def _decoded(split: ImageFiles) -> Callable[[], object]:
    return lambda: pass_through(split.reader.open(i).pixels() for i in range(len(split)))


def _conventional(folder: Path, where: Runtime) -> Callable[[], object]:
    images = ImageFolder(folder, conventional.photo_transform(ImageFiles.size, MEAN, STD))
    loader = conventional.loader(
        images, batch_size=BATCH, device=where.device, num_drawn=len(images)
    )
    return lambda: pass_through(batch[0].to(where.device) for batch in loader)
