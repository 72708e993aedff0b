"""The errors that reach a person as one line, gathered in a module that imports nothing heavy."""

from __future__ import annotations


class ConfigError(ValueError):
    """A scenario that cannot be run; the message names the path, the value and the remedy."""


class MissingDataError(FileNotFoundError):
    """The files of a data set are not there; the message says what to get and where to put it."""


class RunStopped(RuntimeError):
    """The run cannot go on; the message says in which round and why."""


class BudgetSpent(Exception):
    """A client refuses to take part: the round would exceed its privacy budget."""
