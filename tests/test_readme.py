"""README: its tables are the committed ones, its example runs, its tree exists."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from lt_bench import losses
from lt_bench.arguments import VERBS, Parser
from lt_bench.assembly import prepare
from lt_bench.config import names
from lt_bench.reports.report import cells

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(heading):
    """The code of a section."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return code


def test_the_tables_are_the_committed_ones():
    tables = dict(re.findall(r"<!-- table: (\w+) -->\n((?:\|.*\n)+)", README))
    assert list(tables) == ["cifar100", "cifar100_short", "quick"]
    for name, shown in tables.items():
        text = (ROOT / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8")
        first = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
        assert first
        assert first.group().count("\n") >= 4
        assert shown == first.group()


def test_the_example_loss_runs(monkeypatch):
    monkeypatch.setitem(losses.LOSSES, "tempered", None)  # as it was, afterwards
    code = example("A loss of your own")
    assert len(code.strip().splitlines()) <= 13
    scope = vars(losses).copy()
    exec(code, scope)
    config = prepare("digits_lt", "ce", ["objective.loss.name=tempered"])
    assert config.objective.loss.name == "tempered"
    loss = losses.LOSSES["tempered"](torch.tensor([100, 10, 1]))
    assert loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])).shape == (4,)


def test_the_example_of_a_loop_runs():
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]], requires_grad=True)
    scope = {
        "torch": torch,
        "class_counts": [200, 50, 10],
        "num_classes": 3,
        "device": "cpu",
        "logits": logits,
        "target": torch.tensor([0, 1]),
        "step": 0,
        "total_steps": 4,
        "steps_per_epoch": 2,
        "labels": [0, 1, 2, 2],
        "predictions": [0, 0, 2, 1],
    }
    exec(example("In a training loop of your own"), scope)
    scope["loss"].backward()
    # one image each of two classes, one missed: recall's floor counts a miss of the other too
    plain = torch.nn.functional.cross_entropy(logits, scope["target"])
    torch.testing.assert_close(scope["loss"], plain)
    assert logits.grad.abs().sum() > 0
    assert scope["groups"] == {"many": 1.0, "medium": 0.0, "few": 0.5}


def test_the_tree_exists():
    tree = README.split("## The tree")[1].split("```")[1]
    for line in tree.strip("\n").splitlines():
        if line.startswith("      "):
            continue  # goes on with the line before
        inside = ROOT / "lt_bench" if line.startswith("  ") else ROOT
        for name in line.strip().split("  ")[0].split():
            assert (inside / name).exists(), name


def test_every_method_is_named():
    listed = README.split("| what changes | methods |\n")[1].split("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", listed)) == names("configs/methods")


COMMANDS = re.findall(r"python run\.py (\w+ [^`\n]*)", README)
PLACEHOLDERS = re.compile(r"RECIPE|NAME|RUN_ID|\[|tempered")  # and the example's loss


@pytest.mark.parametrize("command", [c for c in COMMANDS if not PLACEHOLDERS.search(c)])
def test_the_commands_can_be_asked_for(command):
    verb, *words = shlex.split(command.partition("   ")[0])
    parser = Parser(prog=f"run.py {verb}")
    parser.take(verb)
    asked = parser.parse_intermixed_args(words)
    if verb == "table":
        assert cells(asked.name)
    if verb in ("train", "data"):
        assert prepare(asked.recipe, getattr(asked, "method", "ce"), asked.overrides)


def test_every_verb_is_shown():
    assert {command.split()[0] for command in COMMANDS} == set(VERBS)
