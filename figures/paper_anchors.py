"""What the compression paper says of minimum perturbations at anchors (Fig. S1, App. B), in words only."""

SETTING = "Fig. S1"
ALIKE_UP_TO = 100
"""The largest t (of 1000) for which it says that the curves at anchors and at clean samples closely match."""


def statement(t: int) -> str:
    """Its claim for one t.

    >>> statement(100), statement(150)
    ('closely match', 'diverge where accuracy drops')
    """
    return "closely match" if t <= ALIKE_UP_TO else "diverge where accuracy drops"
