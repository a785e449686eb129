"""What ends a command in one plain line: a user's mistakes, and a run that failed."""

from collections.abc import Iterable
from pathlib import Path

LONGEST = 1200  # characters of a message; lists of known names come near a thousand


class UserError(ValueError):
    """Ends a command with exit status 2 and one plain line per problem: place, value, remedy."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        each = (problems,) if isinstance(problems, str) else problems
        self.problems = tuple(_one_line(problem) for problem in each)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        """What is sent from one process to another stays line by line."""
        return type(self), (self.problems,)


class ConfigError(UserError):
    """A configuration that cannot run: unknown names, wrong types, values out of range."""


class DataError(UserError):
    """Files that are missing, damaged, or not the ones their name promises."""


class WriteError(DataError):
    """A file that cannot be written; what follows could not be written either."""


class BusyError(UserError):
    """A run that another process is at work on, which holds `lock`."""

    def __init__(self, problem: str, lock: Path) -> None:
        super().__init__(problem)
        self.lock = lock

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.lock)


class RunError(RuntimeError):
    """A run that failed on the way; one line, exit status 1."""


def printable(text: str) -> str:
    """The text with what a terminal or a file of UTF-8 would not bear written as its escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _one_line(problem: str) -> str:
    """What a hostile file can make of a message stays one printable line of bounded length."""
    shown = printable(problem[:LONGEST])
    return shown if len(problem) <= LONGEST else f"{shown}..."
