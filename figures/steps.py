"""An axis of purification steps, on which purifiers that have none (those of one's own) stand to the right by name."""

from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.axes import Axes

from ..compression.records import Measurement
from . import style


class Steps(NamedTuple):
    """The steps there are, ascending, and where purifiers without steps stand."""

    t_stars: list[int]
    own: dict[str, float]

    def x(self, at: dict) -> float:
        """Where a purifier stands.

        >>> steps = steps_of([{"sampler": "ddpm", "t_star": 2}, {"sampler": "ddpm", "t_star": 6},
        ...                   {"sampler": "blur", "t_star": 0}])
        >>> steps.x({"sampler": "ddpm", "t_star": 2}), steps.x({"sampler": "blur", "t_star": 0})
        (2, 8.0)
        """
        return self.own.get(at["sampler"], at["t_star"])

    def middle(self) -> int:
        """The middle step; 0 where no purifier has any."""
        return self.t_stars[len(self.t_stars) // 2] if self.t_stars else 0

    def label(self, axis: Axes) -> None:
        """Ticks and label of the horizontal axis."""
        axis.set_xticks([*self.t_stars, *self.own.values()],
                        [*map(str, self.t_stars), *(style.SAMPLER_NAMES[name] for name in self.own)])
        axis.set_xlabel("purification step t* (steps)" if self.t_stars else "purifier")
        for tick in axis.get_xticklabels()[len(self.t_stars):]:
            tick.set(rotation=30, ha="right")
        axis.set_xlim(0, 1.1 * max(self.own.values()) if self.own else None)

    def title(self) -> str:
        """At which step purifiers are shown where one stands for each sampler."""
        return f", t* = {self.middle()}" if self.t_stars else ""


def steps_of(coordinates: Iterable[dict]) -> Steps:
    """Of the purifiers with these coordinates; the bare classifier is none."""
    coordinates = [at for at in coordinates if at.get("sampler", "none") != "none" and "t_star" in at]
    t_stars = sorted({at["t_star"] for at in coordinates} - {0})
    names = dict.fromkeys(at["sampler"] for at in coordinates if at["t_star"] == 0)
    last = max(t_stars, default=0)
    return Steps(t_stars, {name: last + max(last / 3, 1) * place for place, name in enumerate(names, 1)})


def steps(records: Iterable[Measurement]) -> Steps:
    """Of the purifiers of records."""
    return steps_of(m.at for m in records)
