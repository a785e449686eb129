"""Configuration: TOML recipes x method overlays x overrides, read into frozen dataclasses."""

import difflib
import functools
import hashlib
import inspect
import json
import math
import operator
import shlex
import sys
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from lt_bench.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
Table = Mapping[str, Callable[..., Any]]

# What other repositories call our settings; refused with the remedy, never guessed at.
OTHER_SPELLINGS = {
    "imb_factor": "imbalance_factor = n_max/n_min, for example 100",
    "imb_ratio": "imbalance_factor = n_max/n_min, for example 100",
    "imbalance_ratio": "imbalance_factor = n_max/n_min, for example 100",
    "ir": "imbalance_factor = n_max/n_min, for example 100",
    "imb_type": 'imbalance_type = "exponential" or "step"',
    "drw_start_epoch": "start, a fraction of training, for example 0.8",
    "reweight_epoch": "start, a fraction of training, for example 0.8",
}


class Bound(Protocol):
    """Carried by an annotation: says what is wrong with a value, or nothing."""

    def problem(self, value: Any) -> str | None: ...


@dataclass(frozen=True)
class Range:
    """A number within limits; `above` and `below` exclude the limit itself."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        limits = (
            (">=", self.low, operator.ge),
            (">", self.above, operator.gt),
            ("<=", self.high, operator.le),
            ("<", self.below, operator.lt),
        )
        wanted = [(sign, limit, holds) for sign, limit, holds in limits if limit is not None]
        if all(holds(value, limit) for _, limit, holds in wanted):
            return None
        return f"{value} is out of range; give a value " + " and ".join(
            f"{sign} {limit:g}" for sign, limit, _ in wanted
        )


@dataclass(frozen=True)
class _ImbalanceFactor:
    def problem(self, value: Any) -> str | None:
        if value >= 1:
            return None
        if value > 0:
            return f"{value} is n_min/n_max; write n_max/n_min, {1 / value:g}"
        return f"{value} is out of range; write n_max/n_min, for example 100"


@dataclass(frozen=True)
class Part:
    """Marks a Spec as naming an entry of the part table of this kind, such as "loss"."""

    kind: str


ImbalanceFactor = Annotated[float, _ImbalanceFactor()]
Fraction = Annotated[float, Range(low=0, high=1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(low=0)]
Count = Annotated[int, Range(low=1)]


@dataclass(frozen=True)
class Spec:
    """A part by name, with the keyword options of its constructor."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


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
    """One experiment. `digest` is the hash of what files and command line say, except the seed."""

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
    seed: Annotated[int, Range(low=0, high=2**31 - 1)] = 0

    @property
    def run_id(self) -> str:
        names = f"{self.recipe}-{self.overlay}".replace(":", ".")
        return f"{names}-s{self.seed}-{self.digest[:8]}"

    @property
    def command(self) -> str:
        """What runs it again."""
        words = ["python", "run.py", "train", self.recipe, self.overlay, *self.overrides]
        return shlex.join([*words, f"seed={self.seed}"])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the record; parts become `{name, **options}` as in the files."""
        return {key: _plain(value) for key, value in vars(self).items()}


# Set by `load` itself, never by a file or on the command line.
NAMED_BY_LOAD = ("recipe", "overlay", "digest", "overrides", "parent")


@dataclass(frozen=True)
class Said:
    """The merged settings as a tree, and which file or argument each dotted key came from."""

    tree: Mapping[str, Any]
    origin: Mapping[str, str]


def load(
    recipe: str,
    method: str,
    overrides: Sequence[str] = (),
    tables: Mapping[str, Table] | None = None,
) -> RunConfig:
    """Resolve RECIPE[:VARIANT...] x METHOD x key=value into a checked RunConfig.

    Args:
        tables: the part tables by kind; without them part names and options are not checked
            (and torch is not needed).

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
    parent = _parent(recipe, said.tree, overrides, tables, reader.problems)
    if reader.problems:
        raise ConfigError(reader.problems)
    name = Path(recipe.split(":")[0]).stem
    return RunConfig(
        recipe=":".join([name, *recipe.split(":")[1:]]),
        overlay=Path(method).stem,
        digest=_digest(said.tree, parent),
        overrides=tuple(o for o in overrides if o.split("=")[0].strip() != "seed"),
        parent=parent,
        **settings,
    )


def gather(recipe: str, method: str, overrides: Sequence[str] = ()) -> Said:
    """Merge recipe < variants < overlay < its [for.<recipe>] < command line, keeping origins."""
    recipe_name, *variants = recipe.split(":")
    recipe_file, recipe_tree = read_toml("recipe", recipe_name, ROOT / "configs")
    method_file, method_tree = read_toml("method", method, ROOT / "configs" / "methods")
    known_variants = _tables_of(recipe_tree, "variants", recipe_file)
    only_for = _tables_of(method_tree, "for", method_file)

    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    _merge(tree, recipe_tree, recipe_file, origin)
    for variant in variants:
        if variant not in known_variants:
            raise ConfigError(f"recipe: {_unknown(variant, known_variants)}")
        _merge(tree, known_variants[variant], f"{recipe_file} [variants.{variant}]", origin)
    _merge(tree, method_tree, method_file, origin)
    stem = Path(recipe_name).stem
    for key in (stem, *(f"{stem}:{variant}" for variant in variants)):
        if key in only_for:
            _merge(tree, only_for[key], f"{method_file} [for.{key}]", origin)
    for override in overrides:
        _merge(tree, _parse_override(override), f"command line: {override}", origin)
    return Said(tree, origin)


def _tables_of(tree: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    """Take [key.NAME] tables out of a file's tree."""
    found = tree.pop(key, {})
    if isinstance(found, dict) and all(isinstance(table, dict) for table in found.values()):
        return found
    raise ConfigError(f"{source}: {key}: expected tables, as in [{key}.NAME], got {_brief(found)}")


def names(folder: str) -> list[str]:
    """The recipes (`configs`), overlays (`configs/methods`) or tables that the checkout holds."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.toml"))


def bind(kind: str, spec: Spec, table: Table, *, place: str | None = None) -> Callable[..., Any]:
    """The entry that `spec` names with its options filled in, ready for its positional arguments.

    Raises:
        ConfigError: the name or an option is wrong.
    """
    reader = Reader({kind: table})
    options = reader.options(kind, spec, place or kind)
    if reader.problems:
        raise ConfigError(reader.problems)
    return functools.partial(table[spec.name], **options)


def build(kind: str, spec: Spec, table: Table, *context: Any, place: str | None = None) -> Any:
    """Look `spec` up in its table, check its options against the signature, and call.

    Raises:
        ConfigError: the name or an option is wrong, or the part itself refuses its options.
    """
    try:
        return bind(kind, spec, table, place=place)(*context)
    except ConfigError as error:
        at = place or kind
        raise ConfigError(
            p if p.startswith(f"{at}.") else f"{at}.{p}" for p in error.problems
        ) from error


class Reader:
    """Turns plain values into annotated types and collects every problem on the way."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables = tables
        self.problems: list[str] = []

    def settings(
        self, cls: type[Any], tree: Mapping[str, Any], place: str, without: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The keyword arguments of dataclass `cls` that `tree` gives, except those `without`."""
        known = {f.name: f for f in fields(cls) if f.name not in without}
        hints = get_type_hints(cls, include_extras=True)
        for name, f in known.items():
            if f.default is MISSING and f.default_factory is MISSING and name not in tree:
                self._say(_join(place, name), "is missing")
        return self._each(tree, {name: hints[name] for name in known}, place, "field")

    def options(self, kind: str, spec: Spec, place: str) -> dict[str, Any]:
        """The keyword arguments that `spec` gives to its entry of the table of this kind."""
        table = self.tables[kind]
        if spec.name not in table:
            self._say(_join(place, "name"), _unknown(spec.name, table))
            return {}
        entry = table[spec.name]
        signature = inspect.signature(entry)
        hints = get_type_hints(
            entry.__init__ if inspect.isclass(entry) else entry,
            include_extras=True,
        )
        known = {
            name: parameter
            for name, parameter in signature.parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name, parameter in known.items():
            if parameter.default is inspect.Parameter.empty and name not in spec.options:
                self._say(_join(place, name), f"is missing; {spec.name!r} needs it")
        kinds = {name: hints[name] for name in known}
        return self._each(spec.options, kinds, place, f"option of {spec.name!r}")

    def read(self, value: Any, kind: Any, place: str) -> Any:
        """`value` as annotated type `kind`; what does not fit becomes a problem."""
        origin, inner = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._annotated(value, inner[0], inner[1:], place)
        if origin in (Union, types.UnionType):
            if value is None and type(None) in inner:
                return None
            return self._union(value, [k for k in inner if k is not type(None)], place)
        if origin is Literal:
            if value not in inner:
                self._say(place, _unknown(value, [str(name) for name in inner]))
            return value
        if origin is tuple:
            if not isinstance(value, list | tuple):
                return self._mismatch(value, "a list", place)
            return tuple(self.read(item, inner[0], f"{place}[{i}]") for i, item in enumerate(value))
        if origin is dict:
            if not isinstance(value, Mapping):
                return self._mismatch(value, "a table", place)
            return {key: self.read(v, inner[1], _join(place, key)) for key, v in value.items()}
        if kind is Spec:
            return self._spec(value, place)
        if is_dataclass(kind) and isinstance(kind, type):
            if not isinstance(value, Mapping):
                return self._mismatch(value, "a table", place)
            before = len(self.problems)
            given = self.settings(kind, value, place)
            return kind(**given) if len(self.problems) == before else None
        if kind is float and type(value) is int:
            if abs(value) > sys.float_info.max:
                return self._mismatch(value, "a number", place)
            return float(value)
        if kind is Any or type(value) is kind:
            if kind is float and not math.isfinite(value):
                return self._mismatch(value, "a number", place)
            return value
        return self._mismatch(value, getattr(kind, "__name__", str(kind)), place)

    def _each(
        self, tree: Mapping[str, Any], kinds: Mapping[str, Any], place: str, what: str
    ) -> dict[str, Any]:
        result = {}
        for name, value in tree.items():
            if name in kinds:
                result[name] = self.read(value, kinds[name], _join(place, name))
            else:
                self._no_such(_join(place, name), name, kinds, what)
        return result

    def _no_such(self, place: str, name: str, known: Mapping[str, Any], what: str) -> None:
        if name in OTHER_SPELLINGS:
            self._say(place, f"no such {what}; write {OTHER_SPELLINGS[name]}")
            return
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"
        self._say(place, f"no such {what}{hint}")

    def _annotated(self, value: Any, kind: Any, marks: tuple[Any, ...], place: str) -> Any:
        before = len(self.problems)
        result = self.read(value, kind, place)
        for mark in marks:
            if len(self.problems) > before:
                break
            if isinstance(mark, Part):
                if mark.kind in self.tables:
                    self.options(mark.kind, result, place)
            elif (problem := mark.problem(result)) is not None:
                self._say(place, problem)
        return result

    def _union(self, value: Any, kinds: list[Any], place: str) -> Any:
        """The first alternative that fits; otherwise the problems of the first."""
        before = list(self.problems)
        result: Any = None
        for kind in kinds:
            self.problems = list(before)
            result = self.read(value, kind, place)
            if self.problems == before:
                return result
        self.problems = list(before)
        return self.read(value, kinds[0], place)

    def _spec(self, value: Any, place: str) -> Spec | None:
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return Spec(value)
        if not isinstance(value, Mapping):
            self._mismatch(value, "a name or a table with a name", place)
            return None
        if not isinstance(value.get("name"), str):
            self._say(_join(place, "name"), "is missing; say which part these options are for")
            return None
        return Spec(value["name"], {k: v for k, v in value.items() if k != "name"})

    def _mismatch(self, value: Any, wanted: str, place: str) -> Any:
        self._say(place, f"expected {wanted}, got {_brief(value)}")
        return None

    def _say(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {problem}")


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _unknown(name: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f"did you mean {near[0]!r}?; " if near else ""
    return f"unknown {_brief(name)}; {hint}known: {', '.join(known) or 'none'}"


def read_toml(kind: str, name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """A config by name from the checkout, or by path when it ends in .toml."""
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; lt_bench reads its configs from its checkout: "
            "install it there with python -m pip install -e ."
        )
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    try:
        is_there = path.is_file()
    except OSError:  # a name longer than any file's
        is_there = False
    if not is_there:
        known = sorted(p.stem for p in folder.glob("*.toml"))
        raise ConfigError(f"{kind}: {_unknown(name, known)}")
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    try:
        return shown, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: not readable as TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{shown}: not readable as TOML: nested too deep") from error


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"{_brief(text)}: not a setting; write key=value, for example optim.lr=0.05"
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
        place = _join(at, key)
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
            for name, inner in value.items():
                _merge(into[key], {name: inner}, source, origin, place)
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
    problems: list[str],
) -> RunConfig | None:
    """The run a second stage starts from: same recipe, data, backbone and seed."""
    if "parent" not in tree:
        return None
    name = tree["parent"]
    if not isinstance(name, str):
        problems.append(f"parent: expected the name of a method, got {name!r}")
        return None
    shared = [o for o in overrides if o.split("=")[0].split(".")[0] in ("data", "backbone", "seed")]
    try:
        return load(recipe, name, shared, tables)
    except ConfigError as error:
        problems.extend(f"parent: {problem}" for problem in error.problems)
        return None


def _digest(tree: Mapping[str, Any], parent: RunConfig | None) -> str:
    said = {key: value for key, value in tree.items() if key not in ("seed", "parent")}
    if parent:
        said["parent"] = parent.digest
    text = json.dumps(_canonical(said), sort_keys=True, separators=(",", ":"))
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
