"""Configuration: TOML recipes x method overlays x overrides, read into frozen dataclasses."""

import hashlib
import json
import os
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from lt_bench.errors import ConfigError
from lt_bench.schema import (
    Count,
    NonNegative,
    Part,
    Positive,
    Range,
    Reader,
    Spec,
    Table,
    brief,
    join,
    unknown,
)

ROOT = Path(__file__).resolve().parent.parent
SEEDS = Range(low=0, high=2**31 - 1)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Loss x weighting x reduction: what papers bundle, told apart."""

    loss: Annotated[Spec, Part("loss")] = Spec("ce")
    weighting: Annotated[Spec, Part("weighting")] = Spec("uniform")
    reduction: Literal["mean", "weighted_mean"] = "mean"


@dataclass(frozen=True)
class RepresentationConfig:
    """The second head of methods that have one (SDN): what teaches the backbone."""

    objective: ObjectiveConfig = ObjectiveConfig()
    head: Annotated[Spec, Part("head")] = Spec("linear")


@dataclass(frozen=True)
class OptimConfig:
    """SGD and its schedule; `batch_size` is global, `weight_decay` the L2 coefficient."""

    epochs: Annotated[int, Range(low=0)] = 1
    batch_size: Count = 128
    lr: Positive = 0.1
    backbone_lr_factor: NonNegative = 1.0
    momentum: Annotated[float, Range(low=0, below=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    schedule: Annotated[Spec, Part("schedule")] = Spec("constant")
    accumulate: Count = 1
    ema: Annotated[float, Range(low=0, below=1)] = 0.0  # decay per step; 0 is off
    mixup: NonNegative = 0.0  # alpha; 0 is off
    cutmix: NonNegative = 0.0


@dataclass(frozen=True)
class RunConfig:
    """One experiment. `digest` is the hash of what files and command line say, except the seed.

    `recipe` (with its variants) and `overlay` are as they were given: names, or files of one's own.
    """

    recipe: str
    overlay: str
    digest: str
    overrides: tuple[str, ...]
    data: Annotated[Spec, Part("dataset")]
    backbone: Annotated[Spec, Part("backbone")]
    head: Annotated[Spec, Part("head")] = Spec("linear")
    method: Annotated[Spec, Part("method")] = Spec("one_stage")
    objective: ObjectiveConfig = ObjectiveConfig()
    representation: RepresentationConfig | None = None
    augment: tuple[Annotated[Spec, Part("transform")], ...] = ()
    sampler: Annotated[Spec, Part("sampler")] = Spec("instance")
    optim: OptimConfig = OptimConfig()
    parent: "RunConfig | None" = None
    seed: Annotated[int, SEEDS] = 0

    @property
    def names(self) -> tuple[str, str]:
        """Of recipe and overlay, without the folders of files of one's own."""
        recipe, *variants = self.recipe.split(":")
        return ":".join([stem_of(recipe), *variants]), stem_of(self.overlay)

    @property
    def run_id(self) -> str:
        names = "-".join(self.names).replace(":", ".")
        return f"{names}-s{self.seed}-{self.digest[:8]}"

    @property
    def command(self) -> str:
        """What runs it again."""
        words = ["python", "run.py", "train", self.recipe, self.overlay, *self.overrides]
        return shlex.join([*words, f"seed={self.seed}"])

    @property
    def stages(self) -> "list[RunConfig]":
        """The runs that it starts from, first stage first, and itself."""
        return [*(self.parent.stages if self.parent else []), self]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the record; parts become `{name, **options}` as in the files."""
        return {key: _plain(value) for key, value in vars(self).items()}


def in_folder(command: str, results: Path, data_root: Path | None = None) -> str:
    """The command, with what it needs to use these folders; nothing for those it finds itself."""
    folder = results.resolve()
    if folder != ROOT / "results":
        named = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        command += f" --results {shlex.quote(str(named))}"
    if data_root is not None and os.environ.get("LT_BENCH_DATA") != str(data_root):
        command += f" --data-root {shlex.quote(str(data_root))}"
    return command


def repetition(config: RunConfig, results: Path, data_root: Path | None = None) -> str:
    """What repeats a run on record; one of the checkout's own is kept, and repeated elsewhere."""
    if results.resolve() == ROOT / "results":
        elsewhere = in_folder(config.command, ROOT / "mine", data_root)
        return f"{elsewhere}, and give --results mine here as well"
    return in_folder(f"{config.command} --again", results, data_root)


# Tables of settings that a second stage has in common with the run it starts from.
SHARED_WITH_PARENT = ("data", "backbone")

COMMAND_LINE = "command line: "  # how the origin of what stands there begins

# Set by `load` itself, never by a file or on the command line.
NAMED_BY_LOAD = ("recipe", "overlay", "digest", "overrides", "parent")


@dataclass(frozen=True)
class Said:
    """The merged settings as a tree, and which file or argument each dotted key came from."""

    tree: Mapping[str, Any]
    origin: Mapping[str, str]

    def source(self, key: str) -> str | None:
        """The file or argument that said a dotted key, the table it is in, or what it holds."""
        inside = next((said for at, said in self.origin.items() if at.startswith(f"{key}.")), None)
        while key and key not in self.origin:
            key = key.rpartition(".")[0]
        return self.origin.get(key, inside)

    def located(self, problem: str) -> str:
        """A problem that begins with its key, with the file that says this in front."""
        source = self.source(problem.partition(":")[0].partition("[")[0])
        is_from_file = source and not source.startswith(COMMAND_LINE)
        return f"{source}: {problem}" if is_from_file else problem


def load(
    recipe: str,
    method: str,
    overrides: Sequence[str] = (),
    tables: Mapping[str, Table] | None = None,
    *,
    parents: Sequence[str] = (),
) -> RunConfig:
    """Resolve RECIPE[:VARIANT...] x METHOD x key=value into a checked RunConfig.

    Args:
        tables: the part tables by kind; without them part names and options are not checked
            (and torch is not needed).
        parents: of a run that is loaded as a parent, the methods between it and the last stage.

    Raises:
        ConfigError: every problem found, a line each.
    """
    said = gather(recipe, method, overrides)
    reader = Reader(tables or {})
    settings = reader.settings(
        RunConfig,
        {key: value for key, value in said.tree.items() if key != "parent"},
        place="",
        without=NAMED_BY_LOAD,
    )
    problems = [said.located(problem) for problem in reader.problems]
    parent = _parent(recipe, said.tree, overrides, tables, parents, problems)
    if problems:
        raise ConfigError(problems)
    config = RunConfig(
        recipe=recipe,
        overlay=method,
        digest=_digest(said.tree, parent),
        overrides=tuple(o for o in overrides if key_of(o) != "seed"),
        parent=parent,
        **settings,
    )
    return with_seed(config, config.seed)


def gather(recipe: str, method: str, overrides: Sequence[str] = ()) -> Said:
    """Merge recipe < variants < overlay < its [for.<recipe>] < command line, keeping origins."""
    recipe_name, *variants = recipe.split(":")
    recipe_file, recipe_tree = read_toml("recipe", recipe_name, "configs")
    method_file, method_tree = read_toml("method", method, "configs/methods")
    known_variants = _tables_of(recipe_tree, "variants", recipe_file)
    only_for = _tables_of(method_tree, "for", method_file)

    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    _merge(tree, recipe_tree, recipe_file, origin)
    for variant in variants:
        if variant not in known_variants:
            raise ConfigError(f"recipe: {unknown(variant, known_variants)}")
        _merge(tree, known_variants[variant], f"{recipe_file} [variants.{variant}]", origin)
    _merge(tree, method_tree, method_file, origin)
    stem = stem_of(recipe_name)
    for key in (stem, *(f"{stem}:{variant}" for variant in variants)):
        if key in only_for:
            _merge(tree, only_for[key], f"{method_file} [for.{key}]", origin)
    for override in overrides:
        _merge(tree, _parse_override(override), f"{COMMAND_LINE}{override}", origin)
    for key in only_for:
        variant = key.removeprefix(f"{stem}:")
        is_meant = variant in known_variants and _holds(tree, known_variants[variant])
        if is_meant and variant not in variants:
            kept = [
                v for v in variants if known_variants[v].keys() != known_variants[variant].keys()
            ]
            raise ConfigError(
                f"recipe: {recipe!r} with these settings is "
                f"{':'.join([recipe_name, *kept, variant])}, for which {method_file} has values of "
                "its own; write that"
            )
    # of one key the last counts; what another key's part replaces may be a slip
    last = {key_of(override): override for override in overrides}
    told = set(origin.values())
    if idle := [o for o in last.values() if f"{COMMAND_LINE}{o}" not in told]:
        raise ConfigError(
            f"{o}: has no effect, since a later setting replaces it; write it after that, or leave "
            "it out"
            for o in idle
        )
    return Said(tree, origin)


def given_keys(overrides: Sequence[str]) -> list[str]:
    """The dotted keys that key=value settings set, those of a whole table one by one."""
    origin: dict[str, str] = {}
    for override in overrides:
        _merge({}, _parse_override(override), override, origin)
    return list(origin)


def _holds(tree: Any, part: Mapping[str, Any]) -> bool:
    """Whether a tree of settings has all those of another one."""
    return isinstance(tree, Mapping) and all(
        _holds(tree.get(key), value) if isinstance(value, Mapping) else tree.get(key) == value
        for key, value in part.items()
    )


def _tables_of(tree: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    """Take [key.NAME] tables out of a file's tree."""
    found = tree.pop(key, {})
    if isinstance(found, dict) and all(isinstance(table, dict) for table in found.values()):
        return found
    raise ConfigError(f"{source}: {key}: expected tables, as in [{key}.NAME], got {brief(found)}")


def names(folder: str) -> list[str]:
    """The recipes (`configs`), overlays (`configs/methods`) or tables that the checkout holds."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.toml"))


def read_toml(kind: str, name: str, folder: str) -> tuple[str, dict[str, Any]]:
    """A config by name from this folder of the checkout, or by path when it ends in .toml."""
    if not (ROOT / folder).is_dir():
        raise ConfigError(
            f"{ROOT / folder}: no such folder; lt_bench reads its configs from its checkout: "
            "install it there with python -m pip install -e ."
        )
    path = Path(name) if name.endswith(".toml") else ROOT / folder / f"{name}.toml"
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    try:
        return shown, tomllib.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise ConfigError(f"{shown}: not readable; check its permissions") from error
    except OSError as error:  # not there, a folder, a name longer than any file's
        if name.endswith(".toml"):
            raise ConfigError(f"{kind}: {name}: no such file in {Path.cwd()}") from error
        raise ConfigError(f"{kind}: {unknown(name, names(folder))}") from error
    except ValueError as error:  # of tomllib, of UTF-8, or a name with a null byte
        raise ConfigError(f"{shown}: not readable as TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{shown}: not readable as TOML: nested too deep") from error


def listed_name(name: str, folder: str) -> str:
    """The name of what is given as a file of this folder of the checkout; any other as it is."""
    is_listed = name.endswith(".toml") and Path(name).resolve().parent == ROOT / folder
    return stem_of(name) if is_listed else name


def stem_of(name: str) -> str:
    """Of a config's name or file: without its folder and .toml, with any other dots."""
    return Path(name).name.removesuffix(".toml")


def key_of(override: str) -> str:
    return override.partition("=")[0].strip()


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"{brief(text)}: not a setting; write key=value, for example optim.lr=0.05"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        parsed = value
    for name in reversed(keys):
        parsed = {name: parsed}
    return parsed  # type: ignore[no-any-return]


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], source: str, origin: dict[str, str], at: str = ""
) -> None:
    """Lay `new` over `into`: a table with a name replaces, others merge."""
    for key, value in new.items():
        place = join(at, key)
        current = into.get(key)
        if isinstance(current, str) and isinstance(value, Mapping) and "name" not in value:
            current = into[key] = {"name": current}  # a part given by its bare name gets options
        if isinstance(value, Mapping) and "name" not in value and isinstance(current, dict):
            _merge(current, value, source, origin, place)
            continue
        for old in [p for p in origin if p == place or p.startswith(f"{place}.")]:
            del origin[old]
        if isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value, source, origin, place)
            if not value:
                origin[place] = source
        else:
            into[key] = value
            origin[place] = source


def _parent(
    recipe: str,
    tree: Mapping[str, Any],
    overrides: Sequence[str],
    tables: Mapping[str, Table] | None,
    parents: Sequence[str],
    problems: list[str],
) -> RunConfig | None:
    """The run a second stage starts from: same recipe, data, backbone and seed."""
    if "parent" not in tree:
        return None
    name = tree["parent"]
    if not isinstance(name, str):
        problems.append(f"parent: expected the name of a method, got {name!r}")
        return None
    if name in parents:  # loaded as it is now, with the same overrides
        problems.append(f"parent: {name!r} would start from itself; write another one")
        return None
    shared = [o for o in overrides if key_of(o).split(".")[0] in SHARED_WITH_PARENT]
    try:
        return load(recipe, name, shared, tables, parents=(*parents, name))
    except ConfigError as error:
        problems.extend(f"parent: {problem}" for problem in error.problems)
        return None


def _digest(tree: Mapping[str, Any], parent: RunConfig | None) -> str:
    said = {key: value for key, value in tree.items() if key not in ("seed", "parent")}
    if parent:
        said["parent"] = parent.digest
    text = json.dumps(_canonical(said), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """One spelling per value: 100.0 is 100, and a part without options is its bare name."""
    if isinstance(value, Mapping):
        if list(value) == ["name"]:
            return value["name"]
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return {"name": value.name, **_plain(value.options)}
    if isinstance(value, RunConfig):
        return value.as_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(inner) for key, inner in vars(value).items()}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same cell under another seed; a parent follows its child."""
    parent = with_seed(config.parent, seed) if config.parent else None
    return replace(config, seed=seed, parent=parent)
