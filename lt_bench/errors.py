"""What ends a command in one plain line: a user's mistakes, and a run that failed."""

from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Ends a command with exit status 2 and one plain line per problem: place, value, remedy."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


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


class RunError(RuntimeError):
    """A run that failed on the way; one line, exit status 1."""
