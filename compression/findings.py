"""What a check found: the number that was measured, what was expected of it, and what to do."""

import warnings
from collections.abc import Mapping
from typing import Literal, NamedTuple


class PreflightError(ValueError):
    """A robustness number that must not be believed yet."""


class Finding(NamedTuple):
    """One flaw.

    check: name of the check. severity: an error forbids to believe the number, a warning asks for a look.
    message: what was expected and what came. remedy: what to do. measured: the numbers behind it, by name.
    """

    check: str
    severity: Literal["error", "warning"]
    message: str
    remedy: str
    measured: Mapping[str, float] = {}

    def __str__(self) -> str:
        return f"{self.check}: {self.message}; {self.remedy}"


class Findings(NamedTuple):
    """What a preflight found.

    found: the flaws, in the order of the checks. passed, skipped: names of the checks that found nothing, and of
    those that could not be made after an error that made them meaningless.

    >>> Findings((Finding("logits", "error", "expected logits, got probabilities", "remove the softmax"),)).errors
    ('logits: expected logits, got probabilities; remove the softmax',)
    """

    found: tuple[Finding, ...]
    passed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        """The errors, in words."""
        return tuple(str(finding) for finding in self.found if finding.severity == "error")

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, in words."""
        return tuple(str(finding) for finding in self.found if finding.severity == "warning")

    def raise_if_any(self) -> None:
        """Warn of each warning, and raise PreflightError if there is an error, with all of them."""
        for warning in self.warnings:
            warnings.warn(warning, stacklevel=2)
        if self.errors:
            skipped = f"\nnot checked after that: {', '.join(self.skipped)}" if self.skipped else ""
            raise PreflightError("\n".join(self.errors) + skipped)
