"""Bars of a period in parts, and lines over it, as SVG shapes that carry their own sizes: our pages' policy allows no
inline style. Pure.

The viewBox is WIDTH by HEIGHT whatever the period, so that the patterns that tell parts apart look alike on all charts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

WIDTH, HEIGHT = 720, 120
GAP = 0.08
"""Of a step, on either side of its bar."""
SHOWN = 5
OTHERS = "others"
Write = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Group:
    """One of the legend's lines. `number` chooses the pattern: 0 is solid, SHOWN is that of all others together,
    or of the one that is left."""

    number: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Column:
    """One step of the period. `bars` are top and height for each group that has any, by its number; `cells` the amounts
    of all groups in the legend's order; `told` says them all."""

    at: date
    x: float
    width: float
    text: str
    bars: Mapping[int, tuple[float, float]]
    cells: tuple[str, ...]
    told: str

    @property
    def is_empty(self) -> bool:
        return not any(self.cells)

    @property
    def hour(self) -> str:
        """As the brand's clock says it; a template's own filter would make it UTC. "" for a day."""
        return f"{self.at:%H:%M}" if isinstance(self.at, datetime) else ""

    @property
    def when(self) -> str:
        return self.hour or f"{self.at.day} {self.at:%b %Y}"

    @property
    def ground(self) -> str:
        """What a pointer meets: the step with the gaps around its bar."""
        gap = round(self.width * GAP / (1 - 2 * GAP), 2)
        return f"M{round(self.x - gap, 2)} 0h{round(self.width + 2 * gap, 2)}v{HEIGHT}H{round(self.x - gap, 2)}z"


@dataclass(frozen=True, slots=True)
class Shape:
    """All bars of a group as one SVG path: a template writes a path much faster than hundreds of rectangles."""

    group: Group
    path: str


@dataclass(frozen=True, slots=True)
class Line:
    """`path` is an SVG path: a step without a value breaks it."""

    group: Group
    path: str


@dataclass(frozen=True, slots=True)
class Stack:
    """`most` is what the full height stands for; `lines` are empty where there are parts."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    most: str
    lines: tuple[Line, ...] = ()

    @property
    def step(self) -> str:
        return "hour" if self.columns[0].hour else "day"

    @property
    def shapes(self) -> list[Shape]:
        """None where there are lines."""
        found = (Shape(group, self._boxes(group.number)) for group in self.groups)
        return [shape for shape in found if shape.path]

    def _boxes(self, number: int) -> str:
        boxes = ((column, *column.bars[number]) for column in self.columns if number in column.bars)
        return "".join(_box(column, y, height) for column, y, height in boxes)

    @property
    def nothing(self) -> str:
        """The path of steps that have no bar, a thin mark each."""
        return "".join(_box(column, HEIGHT - 1, 1) for column in self.columns if not column.bars)

    @property
    def first(self) -> Column:
        return self.columns[0]

    @property
    def last(self) -> Column:
        return self.columns[-1]


def stacked(steps: Sequence[date], amounts: Mapping[tuple[int, str], int], write: Write) -> Stack:
    """`amounts` by number of the step and name of the group. The largest SHOWN groups are told apart."""
    totals: Counter[str] = Counter()
    for (_step, name), amount in amounts.items():
        totals[name] += amount
    names = [name for name, total in totals.most_common() if total]
    shown, rest = names[:SHOWN], names[SHOWN:]
    groups = [Group(number, name, write(totals[name])) for number, name in enumerate(shown)]
    if rest:
        name = f"{len(rest)} {OTHERS}" if len(rest) > 1 else rest[0]
        groups.append(Group(SHOWN, name, write(sum(totals[each] for each in rest))))
    of_step = [
        [*(amounts.get((number, name), 0) for name in shown)]
        + ([sum(amounts.get((number, name), 0) for name in rest)] if rest else [])
        for number in range(len(steps))
    ]
    most = max((sum(cells) for cells in of_step), default=0)
    columns = []
    for number, cells in enumerate(of_step):
        words = tuple(write(amount) if amount else "" for amount in cells)
        text = write(sum(cells))
        each = [f"{group.name}: {word}" for group, word in zip(groups, words, strict=True) if word]
        told = "\n".join([text, *(each if len(groups) > 1 else ())])
        place = _place(number, len(steps))
        columns.append(Column(steps[number], *place, text, _bars(cells, groups, most), words, told))
    return Stack(tuple(columns), tuple(groups), write(most))


def _bars(cells: Sequence[int], groups: Sequence[Group], most: int) -> dict[int, tuple[float, float]]:
    """The largest group stands lowest. A step with anything is never shown as one without."""
    total = sum(cells)
    height = max(total * HEIGHT / most, 2) if total else 0
    bars, y = {}, float(HEIGHT)
    for group, amount in zip(groups, cells, strict=True):
        if amount:
            y -= amount * height / total
            bars[group.number] = (round(y, 2), round(amount * height / total, 2))
    return bars


def _box(column: Column, y: float, height: float) -> str:
    return f"M{column.x} {y}h{column.width}v{height}h-{column.width}z"


def lined(steps: Sequence[date], series: Mapping[str, Sequence[int | None]], write: Write) -> Stack:
    """A line for each of a few series; None where a step has no value."""
    most = max((value for values in series.values() for value in values if value is not None), default=0)
    groups = [Group(number, name, "") for number, name in enumerate(series)]
    columns = []
    for number, at in enumerate(steps):
        cells = [values[number] for values in series.values()]
        words = tuple("" if value is None else write(value) for value in cells)
        text = " / ".join(word for word in words if word)
        columns.append(Column(at, *_place(number, len(steps)), text, {}, words, text or "–"))
    lines = tuple(
        Line(group, _path(values, most)) for group, values in zip(groups, series.values(), strict=True) if most
    )
    return Stack(tuple(columns), tuple(groups), write(most), lines)


def _path(values: Sequence[int | None], most: int) -> str:
    said, on = [], False
    for number, value in enumerate(values):
        if value is not None:
            x, width = _place(number, len(values))
            # A step of no length is drawn as a dot, so that a value between two gaps is seen.
            said.append(f"{'L' if on else 'M'}{round(x + width / 2, 2)} {round(HEIGHT - value * HEIGHT / most, 2)}h0")
        on = value is not None
    return "".join(said)


def _place(number: int, steps: int) -> tuple[float, float]:
    """Left side and width of a bar."""
    each = WIDTH / steps
    return round(number * each + each * GAP, 2), round(each * (1 - 2 * GAP), 2)
