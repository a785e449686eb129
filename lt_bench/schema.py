"""Plain values read as annotated types; parts by name, whose constructors are their schema."""

import difflib
import functools
import inspect
import math
import operator
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lt_bench.errors import ConfigError

Table = Mapping[str, Callable[..., Any]]
# What other repositories call our settings; refused with the remedy, never guessed at.
OTHER_SPELLINGS = {
    "imbalance_factor": "data.imbalance_factor = n_max/n_min, for example 100",
    **dict.fromkeys(
        (
            "imb_factor",
            "imb_ratio",
            "imbalance_ratio",
            "imbalance_rate",
            "imbanlance_rate",
            "cifar_imb_ratio",
            "lb_imb_ratio",
            "RATIO",
            "ir",
        ),
        "imbalance_factor = n_max/n_min, for example 100",
    ),
    "imb_type": 'imbalance_type = "exponential" or "step"',
    **dict.fromkeys(
        ("drw_start_epoch", "reweight_epoch"), "start, a fraction of training, for example 0.8"
    ),
    "label_smoothing": "objective.loss.label_smoothing, an option of the loss 'ce'",
}
# The same of backbones: the networks whose names everybody knows.
OTHER_BACKBONES = {
    **{f"resnet{n}": f'name = "cifar_resnet", depth = {n}' for n in (20, 32, 44, 56, 110)},
    **{f"resnet{n}": f'name = "timm", model = "resnet{n}"' for n in (18, 34, 50, 101, 152)},
    **dict.fromkeys(("resnext50", "resnext50_32x4d"), 'name = "timm", model = "resnext50_32x4d"'),
}


@dataclass(frozen=True)
class Range:
    """A number within limits; `above` and `below` exclude the limit itself."""

    what: str = "value"
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
        return f"{value} is out of range; give a {self.what} " + " and ".join(
            f"{sign} {limit:.16g}" for sign, limit, _ in wanted
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
# moments of training; at 1 it is over, which is no time to start
Moment = Annotated[float, Range("share of the run", low=0, high=1)]
Start = Annotated[float, Range("share of the run", low=0, below=1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(low=0)]
Count = Annotated[int, Range(low=1)]


@dataclass(frozen=True)
class Spec:
    """A part by name, with the keyword options of its constructor."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


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
    with placed(place or kind):
        return bind(kind, spec, table, place=place)(*context)


@contextmanager
def placed(at: str) -> Iterator[None]:
    """What is refused here is of this place, and says so."""
    try:
        yield
    except ConfigError as error:
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
                self._say(join(place, name), "is missing")
        return self._each(tree, {name: hints[name] for name in known}, place, "field")

    def options(self, kind: str, spec: Spec, place: str) -> dict[str, Any]:
        """The keyword arguments that `spec` gives to its entry of the table of this kind."""
        table = self.tables[kind]
        if spec.name not in table:
            other = OTHER_BACKBONES.get(spec.name) if kind == "backbone" else None
            said = f"unknown {brief(spec.name)}; write {other}"
            self._say(join(place, "name"), said if other else unknown(spec.name, table))
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
                self._say(join(place, name), f"is missing; {spec.name!r} needs it")
        kinds = {name: hints.get(name, Any) for name in known}
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
                self._say(place, unknown(value, [str(name) for name in inner]))
            return value
        if origin in (tuple, list):
            if not isinstance(value, list | tuple):
                return self._mismatch(value, "a list", place)
            read = (self.read(item, inner[0], f"{place}[{i}]") for i, item in enumerate(value))
            return origin(read)
        if origin is dict:
            if not isinstance(value, Mapping):
                return self._mismatch(value, "a table", place)
            return {key: self.read(v, inner[1], join(place, key)) for key, v in value.items()}
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
                result[name] = self.read(value, kinds[name], join(place, name))
            else:
                self._no_such(join(place, name), name, kinds, what)
        return result

    def _no_such(self, place: str, name: str, known: Mapping[str, Any], what: str) -> None:
        remedy = OTHER_SPELLINGS.get(name, "")
        ours = remedy.partition(" ")[0].rstrip(",")
        if remedy and ours != place and (what == "field" or ours in known):
            self._say(place, f"no such {what}; write {remedy}")
            return
        inside = [
            join(field, name)
            for field, kind in known.items()
            if is_dataclass(kind) and name in {f.name for f in fields(kind)}
        ]
        near = inside or difflib.get_close_matches(name, known, n=1)
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
            self._say(join(place, "name"), "is missing; say which part these options are for")
            return None
        return Spec(value["name"], {k: v for k, v in value.items() if k != "name"})

    def _mismatch(self, value: Any, wanted: str, place: str) -> Any:
        self._say(place, f"expected {wanted}, got {brief(value)}")
        return None

    def _say(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {problem}")


def join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def unknown(name: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f"did you mean {near[0]!r}?; " if near else ""
    return f"unknown {brief(name)}; {hint}known: {', '.join(known) or 'none'}"
