"""The errors a user can cause, each naming the file, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class InputError(ValueError):
    """One file, folder or key is not what it should be."""

    def __init__(self, where: str | Path, found: object, expected: object) -> None:
        super().__init__(f"{where}: found {found}, expected {expected}")
        self.where, self.found, self.expected = str(where), str(found), str(expected)


class NotSupported(ValueError):
    """What a method cannot make of what it is given. Raised by `reconstruct`, it leaves the point out for the whole cohort, and
    the harness lists the point with this reason."""


class ManyInputErrors(ValueError):
    """Several inputs are bad; what the good ones gave has been kept."""

    def __init__(self, errors: Sequence[InputError], kept: int) -> None:
        lines = "\n".join(f"  - {error}" for error in errors)
        super().__init__(
            f"{len(errors)} input(s) could not be used; the finished work of {kept} other subject(s) is kept.\n{lines}\n"
            "Mend or remove the files, or list the subjects under `exclude:` of the cohort; then run the same command again."
        )
        self.errors = list(errors)
