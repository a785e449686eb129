"""The machine: device, precision, seeds, ranks."""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lt_bench.errors import ConfigError

PRECISIONS = ("auto", "fp32", "bf16")
# Saving the largest networks takes about a second, so at this pace it stays below 2 % of a run.
CHECKPOINT_SECONDS = 60.0
# What the first rank does alone, such as testing, has the others wait.
PATIENCE = timedelta(hours=6)
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Runtime:
    """Settings of the machine: in the record, not in a configuration's digest."""

    device: torch.device
    precision: str
    data_root: Path | None = None
    results: Path = Path("results")
    deterministic: bool = False
    workers: int = 0
    on_bad_image: str = "stop"
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    compiled: bool = False
    jobs: int = 1

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        precision: str = "auto",
        data_root: Path | None = None,
        results: Path = Path("results"),
        deterministic: bool = False,
        workers: int | None = None,
        on_bad_image: str = "stop",
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        compiled: bool = False,
        jobs: int = 1,
    ) -> "Runtime":
        """Resolve "auto" on this machine; one of several processes under torchrun joins them.

        Args:
            device: of a rank, "cuda" is the one with its local number.
            workers: processes that read images from files, of each run and rank; by default one
                per usable core, of which runs side by side and local ranks have their share.
            on_bad_image: "stop" at an image that cannot be read, or "skip" them all.
            checkpoint_seconds: what a kill may cost; 0 keeps the state after every step.
            compiled: torch.compile the step.
            jobs: how many runs go on side by side.

        Raises:
            ConfigError: the device, precision or compiler asked for is not to be had here.
        """
        chosen = _join_ranks(_choose_device(device))
        for flag, is_given in (("--compile", compiled), ("--jobs", jobs > 1)):
            if world_size() > 1 and is_given:
                raise ConfigError(f"{flag}: not with several ranks of one run; leave it out")
        if precision not in PRECISIONS:
            raise ConfigError(f"--precision: unknown {precision!r}; known: {', '.join(PRECISIONS)}")
        if precision == "auto":
            precision = "bf16" if _gains_by_bfloat16(chosen) else "fp32"
        if compiled:
            _refuse_without_compiler(chosen)
        if workers is None:
            sharing = jobs * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            workers = max(1, usable_cores() // sharing)
        elif workers < 0:
            raise ConfigError(f"--workers: {workers} is below 0; 0 reads in the main process")
        if not checkpoint_seconds >= 0:
            raise ConfigError(
                f"--checkpoint-seconds: {checkpoint_seconds} is below 0; 0 is after every step"
            )
        where = cls(
            device=chosen,
            precision=precision,
            data_root=data_root,
            results=results,
            deterministic=deterministic,
            workers=workers,
            on_bad_image=on_bad_image,
            checkpoint_seconds=checkpoint_seconds,
            compiled=compiled,
            jobs=jobs,
        )
        where.set_up()
        return where

    def set_up(self) -> None:
        """Have torch do in this process what the settings say."""
        if self.device.type == "cpu":
            _keep_freed_memory()
        else:
            # its counters, which a run resets, are there only afterwards
            torch.cuda.init()  # type: ignore[no-untyped-call]
            if self.device.index is not None:
                torch.cuda.set_device(self.device)
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic)  # takes seconds, by its imports
        torch.backends.cudnn.benchmark = not self.deterministic
        torch.backends.cudnn.allow_tf32 = False  # fp32 is what the record then says

    def place(self, module: M) -> M:
        """On the device, in the memory layout its convolutions like best."""
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.momentum is not None:
                norm.num_batches_tracked = None  # a count per step, which nothing would read
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def over_ranks(self, module: M) -> "M | DistributedDataParallel":
        """As it is on one rank; on several, with gradients averaged over them."""
        return DistributedDataParallel(module) if world_size() > 1 else module

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def describe(self) -> str:
        """The device in words, for the record."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu, {torch.get_num_threads()} threads"

    def may_differ(self) -> list[str]:
        """What may come out otherwise when the same run is repeated on this machine."""
        if self.deterministic or self.device.type == "cpu":
            return []
        return [
            "convolutions: cudnn takes the algorithm that was fastest when it tried",
            "sums by atomic addition: backward of indexing, interpolation and scatter",
            "matrix products on several streams",
        ]


def usable_cores() -> int:
    """The cores this process may run on, which a container or queue may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int, *path: int) -> None:
    """Seed the default generators of all devices from (seed, path), such as (seed, epoch)."""
    torch.manual_seed(_mix(seed, *path))


def generator(device: torch.device | str, seed: int, *path: int) -> torch.Generator:
    """A generator of its own, a pure function of (seed, path)."""
    return torch.Generator(device).manual_seed(_mix(seed, *path))


def generator_states(device: torch.device) -> list[Tensor]:
    """Where the default generators stand that a run on this device draws from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_generator_states(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, well spread (splitmix64, Steele et al., 2014)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state >> 1


def _choose_device(name: str) -> torch.device:
    """The device of this name, "auto" being a GPU where there is one.

    Raises:
        ConfigError: it is unknown, or not to be had here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device: unknown {name!r}; write cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device: {name!r} is not supported; write cpu, cuda or cuda:0")
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ConfigError(f"--device: {name!r} is not available here; use --device cpu")
    return device


def _gains_by_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware, and faster than float32.

    On Intel's cores AMX's are, those of AVX-512 alone are not (results/bench/cpu_avx512.json).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Callable[[], dict[str, object]] | None = getattr(
        torch.cpu, "get_capabilities", None
    )
    found = capabilities() if capabilities else {}
    is_intel = "Intel" in str(found.get("cpu_name"))
    return bool(found.get("amx_bf16") or (found.get("avx512_bf16") and not is_intel))


def _refuse_without_compiler(device: torch.device) -> None:
    """Say so before a run begins, where torch.compile would only fail at its first step."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError("--compile: no triton for this GPU; install it or leave the flag out")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "--compile: no C++ compiler here; install g++ or leave the flag out"
        ) from error


def _keep_freed_memory() -> None:
    """Have glibc keep the blocks that tensors leave: it would return them to the kernel, and each
    step, a tenth of its time, would have them back page by page.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 2**30) or libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _join_ranks(device: torch.device) -> torch.device:
    """Meet the other processes of a torchrun, if there are any; the device of this one.

    Raises:
        ConfigError: there are fewer GPUs than processes here, or all were given the same; what
            torchrun says is there in part only.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or _are_ranks():
        return device
    numbers = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
    wrong = [name for name in numbers if not os.environ.get(name, "").isdecimal()]
    wrong += [] if os.environ.get("MASTER_ADDR") else ["MASTER_ADDR"]
    if wrong:
        raise ConfigError(
            "environment: WORLD_SIZE asks for several ranks, but not as torchrun sets them: "
            f"{', '.join(wrong)}; start with torchrun, or unset WORLD_SIZE"
        )
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if ":" in str(device):
            raise ConfigError(f"--device: {device} is one GPU for all ranks; write cuda")
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"--device: {torch.cuda.device_count()} GPUs for the rank numbered {local}; give "
                "torchrun a smaller --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


def rank() -> int:
    """The number of this process among those of a torchrun; 0 for one by itself."""
    return dist.get_rank() if _are_ranks() else 0


def world_size() -> int:
    return dist.get_world_size() if _are_ranks() else 1


def _are_ranks() -> bool:
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a detached tensor over all ranks; itself on one rank."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a detached tensor over all ranks; itself on one rank."""
    return value if world_size() == 1 else sum_over_ranks(value) / world_size()


def wait_for_ranks() -> None:
    if world_size() > 1:
        dist.barrier()


def leave_ranks() -> None:
    """Part from the others, when all are done: a process that ended without it was aborted now and
    then, by threads of its group.
    """
    if world_size() > 1:
        dist.barrier()
        dist.destroy_process_group()


def on_any_rank(said: bool) -> bool:
    """Whether any rank says so; all must ask. Waits for the device on several ranks only."""
    if world_size() == 1:
        return said
    where = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(sum_over_ranks(torch.tensor(float(said), device=where)))


def share_of_rank(batch: slice) -> slice:
    """This rank's part of a batch that all ranks have together; parts differ by one at most."""
    size, ranks = batch.stop - batch.start, world_size()
    first, end = (batch.start + size * part // ranks for part in (rank(), rank() + 1))
    return slice(first, end)
