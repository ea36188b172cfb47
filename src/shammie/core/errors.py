"""Errors that a user can act on: one sentence naming the culprit and the remedy."""

from __future__ import annotations


class ShammieError(ValueError):
    """Base of everything a user can mend; the command line prints it as one sentence and exits with 2."""


class UnsupportedModelError(ShammieError):
    """The model's family, layout or state is not one that shammie has proven."""


class MissingFileError(ShammieError):
    """A file, directory or bundled model that was named is not there."""


class DataError(ShammieError):
    """A record, artifact or shard is empty, corrupt or lacks a field; names file, line and field where it can."""


class SiteError(ShammieError):
    """A site, position or weight slice does not exist in this model or batch."""


class NonFiniteError(ShammieError):
    """NaN or infinity in weights, activations, losses or scores; names the place."""


class MismatchError(ShammieError):
    """An artifact or patch was made for another model, site or run."""


class RunError(ShammieError):
    """A run directory cannot be used: held by another process, made by another config, or unfinished."""


class BackendError(ShammieError):
    """A generation or judge backend answered wrongly, timed out or is not installed."""
