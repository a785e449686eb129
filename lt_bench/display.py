"""What a terminal shows while runs are at work."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from lt_bench.config import RunConfig

logger = logging.getLogger(__name__)


class Display(ExitStack):
    """A bar over the epochs of all runs on a terminal, a line per epoch elsewhere."""

    def __init__(self, configs: "Sequence[RunConfig]") -> None:
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        super().__init__()
        is_shown = sys.stderr.isatty() and is_first_rank()
        epochs = sum(config.optim.epochs for config in configs)
        bar = tqdm(total=epochs, unit="epoch", leave=False, disable=not is_shown)
        self.bar = self.enter_context(bar)
        if is_shown:
            self.enter_context(logging_redirect_tqdm())  # above the bar
        self.at_work: dict[str, tuple[int, str]] = {}  # epochs done, and in words

    def begin(self, config: "RunConfig") -> None:
        self._show(config, 0, "")

    def epoch(self, config: "RunConfig", line: Mapping[str, Any]) -> None:
        done, epochs = line["epoch"] + 1, config.optim.epochs
        self.bar.update()
        self._show(config, done, f" loss {line['loss']:.3f}")
        if self.bar.disable:
            terms = "".join(f"  {name} {value:.4f}" for name, value in line["terms"].items())
            logger.info(
                f"{config.run_id}  epoch {done}/{epochs}  loss {line['loss']:.4f}{terms}"
                f"  lr {line['lr']:.2g}  {line['seconds']:.1f} s"
            )

    def end(self, config: "RunConfig", *, is_put_off: bool = False) -> None:
        """What is left of its epochs will not come, unless it is put off."""
        done, _ = self.at_work.pop(config.run_id)
        if not is_put_off:
            self.bar.update(config.optim.epochs - done)
        self._name_runs()

    def print(self, line: str, file: TextIO) -> None:
        self.bar.write(line, file)
        file.flush()

    def _show(self, config: "RunConfig", done: int, loss: str) -> None:
        name = f"{' '.join(config.names)} seed {config.seed}"
        self.at_work[config.run_id] = done, f"{name} {done}/{config.optim.epochs}{loss}"
        self._name_runs()

    def _name_runs(self) -> None:
        self.bar.set_postfix_str(", ".join(words for _, words in self.at_work.values()))


@contextmanager
def image_bar(is_shown: bool) -> "Iterator[Callable[[int], object]]":
    """Counts images on a terminal."""
    from tqdm import tqdm

    with tqdm(unit="image", leave=False, disable=not (is_shown and sys.stderr.isatty())) as bar:
        yield bar.update


def is_first_rank() -> bool:
    """Of the processes of a torchrun the others keep silent, but for what is wrong."""
    # schedulers export a RANK of their own, to processes that are no torchrun's
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
