"""Configurations: merging, messages, digests."""

from pathlib import Path

import pytest

from lt_bench.assembly import TABLES, prepare
from lt_bench.config import ROOT, gather, load, names, repetition, with_seed
from lt_bench.errors import ConfigError
from lt_bench.schema import Spec, build

RECIPES = names("configs")
METHODS = names("configs/methods")


def problems(*overrides, recipe="digits_lt", method="ce"):
    with pytest.raises(ConfigError) as caught:
        prepare(recipe, method, overrides)
    return list(caught.value.problems)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_takes_every_method(recipe, method):
    config = prepare(recipe, method)
    assert config.run_id == f"{recipe}-{method}-s0-{config.digest[:8]}"


def test_all_problems_are_reported_at_once_as_the_design_words_them():
    found = problems(
        "optim.epochs=ten",
        "sed=1",
        "objective.loss.name=ladm",
        "data.imbalance_factor=0.01",
    )
    known = ", ".join(TABLES["loss"])
    assert sorted(found) == [
        "data.imbalance_factor: 0.01 is n_min/n_max; write n_max/n_min, 100",
        "objective.loss.name: unknown 'ladm'; did you mean 'ldam'?; known: " + known,
        "optim.epochs: expected int, got 'ten'",
        "sed: no such field; did you mean 'seed'?",
    ]


def test_a_whole_number_beyond_every_float_is_no_number():
    (line,) = problems(f"optim.lr=1{'0' * 400}")
    assert line.startswith("optim.lr: expected a number, got 1000")


def test_order_of_sources(tmp_path):
    recipe = write(
        tmp_path / "base.toml",
        """
        head = "linear"
        [data]
        name = "digits_lt"
        [backbone]
        name = "small_conv"
        [optim]
        epochs = 1
        lr = 0.1
        batch_size = 8
        weight_decay = 0.001
        [variants.quick.optim]
        lr = 0.2
        batch_size = 16
        """,
    )
    method = write(
        tmp_path / "mine.toml",
        """
        [optim]
        lr = 0.3
        [for.base.optim]
        momentum = 0.5
        [for."base:quick".optim]
        momentum = 0.6
        """,
    )
    config = load(f"{recipe}:quick", method, ["optim.epochs=7"])
    assert (config.optim.lr, config.optim.batch_size) == (0.3, 16)
    assert (config.optim.epochs, config.optim.momentum) == (7, 0.6)
    assert config.optim.weight_decay == 0.001
    assert config.run_id.startswith("base.quick-mine-s0-")
    origin = gather(f"{recipe}:quick", method, ["optim.epochs=7"]).origin
    assert origin["optim.epochs"] == "command line: optim.epochs=7"
    assert origin["optim.batch_size"].endswith("base.toml [variants.quick]")
    assert origin["optim.momentum"].endswith("mine.toml [for.base:quick]")
    assert load(recipe, method).optim.momentum == 0.5


def test_a_table_with_a_name_replaces_and_others_merge():
    config = load("digits_lt", "ldam", ["objective.loss.name=ce"])
    assert config.objective.loss == Spec("ce")
    assert config.head == Spec("cosine")
    config = load("digits_lt", "ldam", ["objective.loss.scale=20"])
    assert config.objective.loss.options == {"max_margin": 0.5, "scale": 20}


def test_digest_is_of_what_is_said_without_the_seed():
    plain = load("digits_lt", "ce")
    assert load("digits_lt", "ce", ["seed=5"]).digest == plain.digest
    assert load("digits_lt", "ce", ["optim.lr=5e-2"]).digest == plain.digest
    assert load("digits_lt", "ce", ["data.imbalance_factor=50.0"]).digest == plain.digest
    assert load("digits_lt", "ce", ["head=linear"]).digest == (
        load("digits_lt", "ce", ["head.name=linear"]).digest
    )
    others = [("ldam", []), ("ce", ["optim.lr=0.06"]), ("ce", ["data.subset_seed=1"])]
    digests = {load("digits_lt", method, overrides).digest for method, overrides in others}
    assert len(digests | {plain.digest}) == 4


def test_with_seed_keeps_the_cell():
    config = load("digits_lt", "ce")
    assert with_seed(config, 3) == load("digits_lt", "ce", ["seed=3"])


def test_a_parts_own_complaint_carries_its_place():
    def picky(*, size: int = 1):
        raise ConfigError(f"size: {size} is odd")

    with pytest.raises(ConfigError, match=r"^data\.size: 1 is odd$"):
        build("data", Spec("picky"), {"picky": picky})


def test_options_of_nested_parts_are_checked():
    found = problems("optim.schedule.name=stepp")
    assert found[0].startswith("optim.schedule.name: unknown 'stepp'; did you mean 'step'?")
    assert problems("optim.schedule.milestones=[2.0]") == [
        "optim.schedule.milestones[0]: 2.0 is out of range; give a share of the run >= 0 and <= 1"
    ]


def test_a_seed_with_spaces_around_its_key_is_the_parents_too():
    config = prepare("digits_lt", "crt", ["seed = 3"])
    assert (config.seed, config.parent.seed, config.overrides) == (3, 3, ())


def test_a_seed_of_the_overlay_is_the_parents_too(tmp_path):
    own = write(tmp_path / "mine.toml", 'parent = "ce"\nmethod = "retrain_head"\nseed = 2\n')
    assert prepare("digits_lt", own).parent.seed == 2


def test_a_method_that_would_start_from_itself_is_refused(tmp_path):
    own, other = str(tmp_path / "mine.toml"), str(tmp_path / "other.toml")
    write(tmp_path / "mine.toml", f'parent = "{own}"\nmethod = "retrain_head"\n')
    said = f"parent: {own!r} would start from itself; write another one"
    assert problems(method=own) == [f"parent: {said}"]
    write(tmp_path / "other.toml", f'parent = "{own}"\nmethod = "retrain_head"\n')
    assert problems(method=other) == [f"parent: {said}"]
    assert prepare("digits_lt", "crt", ["parent=crt"]).parent.parent.overlay == "ce"


def test_what_is_wrong_in_a_file_names_it(tmp_path):
    own = write(
        tmp_path / "mine.toml",
        'optim.lrr = 1\nobjective.loss = { name = "focal", gama = 1 }\n'
        '[for.digits_lt]\noptim.epochs = "x"\n',
    )
    assert problems("optim.mometum=1", method=own) == [
        f"{own} [for.digits_lt]: optim.epochs: expected int, got 'x'",
        f"{own}: optim.lrr: no such field; did you mean 'lr'?",
        "optim.mometum: no such field; did you mean 'momentum'?",
        f"{own}: objective.loss.gama: no such option of 'focal'; did you mean 'gamma'?",
    ]
    (said, *_) = problems(method="configs/digits_lt.toml")
    assert said.startswith("configs/digits_lt.toml: variants: no such field; known: ")


def test_no_other_spelling_is_told_where_there_is_no_such_setting():
    for key in ("imb_factor", "imbalance_factor"):
        (said,) = problems(f"data.{key}=100", recipe="inat2018")
        assert said.startswith(f"data.{key}: no such option of 'inat2018'; known: layout")
    (said,) = problems("imbalance_factor=100")
    assert said.startswith("imbalance_factor: no such field; write data.imbalance_factor = ")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "mine.toml", "")

    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert problems(recipe=path) == [f"{path}: not readable; check its permissions"]


def test_a_date_has_a_digest():
    one, other = (load("digits_lt", "ce", [f"data.profile=2020-01-0{day}"]) for day in (1, 2))
    assert one.digest != other.digest


def test_settings_that_are_a_variants_are_asked_for_by_its_name():
    """An overlay may have values of its own for it."""
    (said,) = problems(
        "data.imbalance_factor=10", recipe="cifar100_lt", method="label_aware_smoothing"
    )
    assert said == (
        "recipe: 'cifar100_lt' with these settings is cifar100_lt:if10, for which "
        "configs/methods/label_aware_smoothing.toml has values of its own; write that"
    )
    (said,) = problems(
        "data.imbalance_factor=10", recipe="cifar100_lt:if50:short", method="label_aware_smoothing"
    )
    assert " is cifar100_lt:short:if10, for which " in said
    assert prepare("cifar100_lt", "ce", ["data.imbalance_factor=10"])
    assert prepare("cifar100_lt:if10", "label_aware_smoothing", ["data.imbalance_factor=10"])
    assert prepare("cifar100_lt", "label_aware_smoothing", ["data.imbalance_factor=20"])


def test_what_repeats_a_run_of_the_checkout_leaves_its_record_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("LT_BENCH_DATA", raising=False)
    config = load("digits_lt", "ce", ["seed=1"])
    command = "python run.py train digits_lt ce seed=1"
    assert repetition(config, ROOT / "results") == (
        f"{command} --results mine, and give --results mine here as well"
    )
    assert repetition(config, tmp_path, tmp_path / "a b") == (
        f"{command} --again --results {tmp_path} --data-root '{tmp_path}/a b'"
    )
    monkeypatch.setenv("LT_BENCH_DATA", str(tmp_path / "a b"))
    assert (
        repetition(config, tmp_path, tmp_path / "a b") == f"{command} --again --results {tmp_path}"
    )
