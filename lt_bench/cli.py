"""The command line: verbs, flags and exit statuses. Heavy imports wait until a verb needs them."""

import argparse
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt_bench.arguments import USER_MISTAKE, Parser
from lt_bench.display import Display, image_bar, is_first_rank
from lt_bench.errors import ConfigError, RunError, UserError

if TYPE_CHECKING:
    from lt_bench.config import RunConfig
    from lt_bench.record import Record
    from lt_bench.runtime import Runtime

logger = logging.getLogger(__name__)

FAILED_RUN, INTERRUPTED, CLOSED_PIPE = 1, 130, 141
SHOWN_WIDTH = 60  # of settings that stand in a column


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for a user's mistake, 1 failed, 130 interrupted, and
    141 where the reader of its output left.
    """
    # torch's switch for large pages, read when it is loaded and first allocates: without them a
    # fresh batch on the CPU costs as much as all that is done to it
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    argv = list(sys.argv[1:] if argv is None else argv)
    overview = Parser(
        prog="run.py",
        description="A benchmark toolkit for long-tailed image classification.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="verbs:\n"
        + "\n".join(f"  {name:<8} {verb.__doc__}" for name, verb in VERBS.items())
        + "\n\npython run.py VERB --help shows the arguments of one.",
    )
    overview.add_argument("verb", metavar="VERB", choices=list(VERBS))
    try:
        if not argv or argv[0] in ("-h", "--help"):
            overview.parse_args(argv)
        verb = overview.parse_args(argv[:1]).verb
        if os.environ.get("WORLD_SIZE", "1") != "1" and verb not in ("train", "table"):
            raise ConfigError(f"{verb}: is not done by several ranks; run it without torchrun")
        command = VERBS[verb]
        parser = Parser(prog=f"run.py {verb}", description=command.__doc__)
        parser.take(verb)
        arguments = parser.parse_intermixed_args(argv[1:])
        level = logging.INFO if is_first_rank() else logging.ERROR
        logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
        logging.getLogger("torch").setLevel(logging.WARNING)  # it tells of its caches at exit
        with _terminated_as_interrupted():
            return command(arguments)
    except UserError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return USER_MISTAKE
    except RunError as error:
        print(error, file=sys.stderr)
        return FAILED_RUN
    except BrokenPipeError:  # who reads what is printed has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:  # of a folder that may not be read, a name that is too long
        if error.filename is None:
            raise
        said = f"{error.filename}: {error.strerror}; make it readable, or give another"
        print(said, file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        again = shlex.join(["python", "run.py", *argv])
        # of the others nothing is kept, so there is nothing to go on with
        is_kept = argv[0] in ("train", "table") or argv[:2] == ["data", "pack"]
        outlook = "goes on" if is_kept else "starts over"
        print(f"interrupted; the same command {outlook}: {again}", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, as a queue sends it, ends a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def train(arguments: argparse.Namespace) -> int:
    """train one experiment, per seed, and record it"""
    from lt_bench.assembly import prepare
    from lt_bench.config import SEEDS, key_of, with_seed
    from lt_bench.data.cifar import download_cifar
    from lt_bench.runtime import wait_for_ranks

    if arguments.seeds and "seed" in map(key_of, arguments.overrides):
        raise ConfigError("--seeds: given together with seed=; write one of them")
    seeds = dict.fromkeys(arguments.seeds or ())
    if wrong := [problem for seed in seeds if (problem := SEEDS.problem(seed))]:
        raise ConfigError(f"--seeds: {problem}" for problem in wrong)
    config = prepare(arguments.recipe, arguments.method, arguments.overrides)
    arguments.jobs = min(arguments.jobs, max(len(seeds), 1))
    where = _runtime(arguments)
    if arguments.download:
        if is_first_rank():
            download_cifar(config.data.name, where.data_root)
        wait_for_ranks()
    configs = [with_seed(config, seed) for seed in seeds or [config.seed]]
    return _run_all(configs, where, again=arguments.again)


def table(arguments: argparse.Namespace) -> int:
    """run what is missing of a results table, print and write it"""
    from lt_bench.config import in_folder, listed_name, names
    from lt_bench.reports import report

    arguments.name = listed_name(arguments.name, "configs/tables")
    missing = report.missing(arguments.name, arguments.results)
    for run in report.stale(arguments.name, arguments.results):
        again = in_folder(f"{run.command} --again", arguments.results, arguments.data_root)
        logger.warning(f"{run.run_id}: of uncommitted code that is not the code here: {again}")
    if arguments.dry_run:
        for run in missing:
            print(in_folder(run.command, arguments.results, arguments.data_root))
        if not missing:
            logger.info("every run is on record")
        return 0
    status = 0
    if missing:
        from lt_bench.assembly import prepare

        for config in missing:
            prepare(config.recipe, config.overlay, config.overrides)
        arguments.jobs = min(arguments.jobs, len(missing))
        status = _run_all(missing, _runtime(arguments), waits=True)
    if is_first_rank():
        print(report.write_table(arguments.name, arguments.results))
        written = arguments.results / "tables" / f"{arguments.name}.md"
        if arguments.name in names("configs/tables") and written.exists():
            rebuild = in_folder("python run.py report", arguments.results)
            logger.info(
                f"{written}, with .csv and .tex beside it; {rebuild} draws the figures and the "
                "page of all tables"
            )
    return status


def rebuild(arguments: argparse.Namespace) -> int:
    """rebuild every table, figure and the page from the records, or check them"""
    if arguments.tensorboard:
        from lt_bench.reports.event_files import write_event_files

        print(*write_event_files(arguments.results, arguments.tensorboard), sep="\n")
        return 0
    from lt_bench.reports import figures, page, pictures, published, report

    results = report.read_results(arguments.results)
    if arguments.check:
        drifted = report.check(results) + pictures.check_figures(results) + page.check_page(results)
        said = "every table, figure and the page follow from their records"
        print(*drifted or [said], sep="\n")
        return FAILED_RUN if drifted else 0
    if arguments.pdf:
        print(*figures.write_pdfs(results, arguments.pdf), sep="\n")
        return 0
    if arguments.published:
        groups = report.beside_published(results)
        if not groups:
            raise ConfigError(f"{arguments.results}/published.csv: no row compares with a table")
        print(published.render_published(groups))
        return 0
    written = [*report.report(results), *figures.write_all(results)]
    print(*written, page.write_page(results), sep="\n")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """repeat a recorded run elsewhere and say how far it agrees"""
    import tempfile
    from dataclasses import replace

    from lt_bench.experiment import recorded
    from lt_bench.record import read, record_path
    from lt_bench.reports.agreement import agreement

    record, config = recorded(arguments.run_id, arguments.results)
    if arguments.precision == "auto":
        arguments.precision = record.environment.get("precision", "auto")
    arguments.compiled |= record.environment.get("compiled", False)
    arguments.deterministic |= record.environment.get("deterministic", False)
    with tempfile.TemporaryDirectory() as folder:
        where = replace(_runtime(arguments), results=Path(folder))
        for stage in config.stages:
            if status := _run_all([stage], where, is_kept=False):
                return status
        found = agreement(record, read(record_path(where.results, config.run_id)))
    print(*found.lines, sep="\n")
    return 0 if found.within(arguments.tolerance) else FAILED_RUN


def predict(arguments: argparse.Namespace) -> int:
    """have a finished model say what is on other images"""
    from lt_bench import predictions
    from lt_bench.files import write_text_whole

    where = _runtime(arguments)
    with image_bar(is_shown=True) as seen:
        found = predictions.predict(arguments.run_id, arguments.path, where, seen)
    if arguments.csv:
        write_text_whole(arguments.csv, predictions.as_csv(found))
    print(*predictions.as_lines(found, arguments.csv), sep="\n")
    return 0


def data(arguments: argparse.Namespace) -> int:
    """check, build or pack the files and lists of a dataset"""
    from lt_bench.assembly import prepare
    from lt_bench.data_actions import act

    spec = prepare(arguments.recipe, "ce", arguments.overrides).data
    arguments.device = "cpu"  # images are decoded here, and a GPU is somebody else's meanwhile
    found = act(spec, _runtime(arguments), arguments)
    print(*found.lines, sep="\n")
    return 0 if found.ok else USER_MISTAKE


def show(arguments: argparse.Namespace) -> int:
    """show a resolved configuration, and where each value came from"""
    from lt_bench.assembly import prepare
    from lt_bench.config import gather

    config = prepare(arguments.recipe, arguments.method, arguments.overrides)
    said = gather(arguments.recipe, arguments.method, arguments.overrides)
    print(f"# {config.run_id}")
    tree = config.as_dict() | {"parent": config.parent and config.parent.overlay}
    named = ("recipe", "overlay", "digest", "overrides")
    rows = [(key, f"{key} = {value}") for key, value in _flat(tree) if key not in named]
    width = max(len(text) for _, text in rows if len(text) <= SHOWN_WIDTH)  # long ones stick out
    for key, text in rows:
        print(f"{text:<{width}}  # {said.source(key) or 'default'}")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """measure speed on this machine, beside loops in the field's usual style"""
    from lt_bench.bench.suite import run

    if arguments.compiled and arguments.names and "step" not in arguments.names:
        raise ConfigError("--compile: has an effect on bench step alone; leave it out")
    run(arguments.names, _runtime(arguments), arguments.json)
    return 0


def _flat(tree: Any, at: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{at}{key}.")
        elif value is not None:
            yield f"{at}{key}", repr(value)


def _run_all(
    configs: "Sequence[RunConfig]",
    where: "Runtime",
    *,
    again: bool = False,
    waits: bool = False,
    is_kept: bool = True,
) -> int:
    """Run each configuration that has no record yet; the exit status.

    One that fails does not stop the others; the end lists what failed, with its command, where the
    results folder is kept.
    """
    from lt_bench.config import in_folder
    from lt_bench.running import outcomes
    from lt_bench.runtime import leave_ranks, world_size

    status, failed = 0, []
    with (
        Display(configs) as display,
        closing(outcomes(configs, where, display, again=again, waits=waits)) as ended,
    ):
        for config, outcome in ended:
            if not isinstance(outcome, Exception):
                if is_first_rank():
                    display.print(_row(outcome), sys.stdout)
                continue
            if len(configs) == 1 and not isinstance(outcome, RunError):
                raise outcome
            if isinstance(outcome, UserError | RunError):
                line = "; ".join(str(outcome).splitlines())
                display.print(f"{config.run_id}: {line}", sys.stderr)
            else:  # of our own making; it keeps its traceback
                logger.error(f"{config.run_id}: failed", exc_info=outcome)
            status = max(status, USER_MISTAKE if isinstance(outcome, UserError) else FAILED_RUN)
            failed.append(in_folder(config.command, where.results, where.data_root))
            if world_size() > 1:  # the other ranks are still at this one
                return status
    leave_ranks()
    if failed and is_kept:
        print("failed; to repeat:", *failed, sep="\n  ", file=sys.stderr)
    return status


def _row(record: "Record") -> str:
    from lt_bench.metrics import balanced_accuracy, shot_accuracy, top1

    tally = record.test.tally
    groups = shot_accuracy(tally, record.data.class_counts)
    cells = [f"{name} {_percent(value)}" for name, value in groups.items()]
    cells += [f"all {_percent(top1(tally))}"]
    if len(set(record.test.total)) > 1:  # where "all" is mostly the classes tested most
        cells += [f"balanced {_percent(balanced_accuracy(tally))}"]
    if record.val:
        cells += [f"validation {_percent(top1(record.val.tally))}"]
    names = f"{record.recipe} {record.overlay} seed {record.seed}"
    return f"{names}:  {'  '.join(cells)}  ({record.seconds:.1f} s)"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _runtime(arguments: argparse.Namespace) -> "Runtime":
    """The machine as the flags of a verb say; not every verb has all of them."""
    from inspect import signature

    from lt_bench.runtime import Runtime

    settings = signature(Runtime.choose).parameters
    given = {name: value for name, value in vars(arguments).items() if name in settings}
    if (root := given.get("data_root")) is not None and not root.is_dir():
        raise ConfigError(f"--data-root: {root} is no folder; give the one that holds the data")
    if (results := given.get("results")) is not None and results.is_file():
        raise ConfigError(f"--results: {results} is a file; give a folder")
    return Runtime.choose(**given)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": train,
    "table": table,
    "report": rebuild,
    "verify": verify,
    "predict": predict,
    "data": data,
    "show": show,
    "bench": bench,
}
