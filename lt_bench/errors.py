"""The two mistakes a user can make: in what was asked for, and in the files given."""

from collections.abc import Iterable


class UserError(ValueError):
    """Ends a command with exit status 2 and one plain line per problem: place, value, remedy."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(UserError):
    """A configuration that cannot run: unknown names, wrong types, values out of range."""


class DataError(UserError):
    """Files that are missing, damaged, or not the ones their name promises."""
