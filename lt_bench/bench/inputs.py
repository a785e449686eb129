"""Speed of reading images: from JPEG files, from packs, and of small ones kept on the device."""

import importlib.util
from collections.abc import Callable
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
from lt_bench.data.folder import folder
from lt_bench.data.pack import Format, pack_path, write_pack
from lt_bench.data.types import ImageFiles
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
        root = Path(name)
        _write_photos(root, images)
        data = folder(root)
        sources = {"files": data.files["train"]}
        for form in PACKS if has_packs else ():
            write_pack(
                data.files,
                pack_path(root / form, "folder"),
                dataset=data.name,
                class_names=data.class_names,
                source=data.source,
                form=form,
                workers=1,
            )
            sources[f"{form} pack"] = folder(root, path=form, layout="pack").files["train"]
        contenders = {"conventional": _conventional(root / "train", where)}
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


def _write_photos(root: Path, num_images: int) -> None:
    """JPEG files with the size in bytes of ImageNet's: soft shapes with a little texture."""
    drawn = np.random.default_rng(0)
    train = [root / f"train/{i % 2}/{i}.jpg" for i in range(num_images)]
    test = [root / f"test/{label}/0.jpg" for label in range(2)]
    for path in train + test:
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes, texture = (
            Image.fromarray(drawn.integers(0, 256, shape, dtype=np.uint8)).resize(
                (WIDTH, HEIGHT), Image.Resampling.BICUBIC
            )
            for shape in ((6, 8, 3), (HEIGHT // 2, WIDTH // 2, 3))
        )
        Image.blend(shapes, texture, 0.2).save(path, "JPEG", quality=QUALITY)


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


def _conventional(train: Path, where: Runtime) -> Callable[[], object]:
    images = ImageFolder(train, conventional.photo_transform(ImageFiles.size, MEAN, STD))
    loader = conventional.loader(
        images, batch_size=BATCH, device=where.device, num_drawn=len(images)
    )
    return lambda: pass_through(batch[0].to(where.device) for batch in loader)
