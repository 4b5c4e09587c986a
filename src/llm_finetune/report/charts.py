"""Curves as the page draws them: in per cent of the plot's width and height, so that they fit any screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

LOOKS = ("first", "second")
MOST_POINTS = 500  # more than a screen can show, and little enough to send by mail
MEAN_FROM = 20  # points from which on a mean says more than the points
MOST_DOTS = 12


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
        name: for the legend.
        look: the class that the page's style sheet knows: first, second, or faint.
        path: of an SVG, in a view box of 100 by 100.
        dots: a path of points alone, where there are few of them.
    """

    name: str
    look: str
    path: str
    dots: str = ""


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, in per cent from the left or from the top."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A plot over the steps.

    Attributes:
        spoken: what it shows, for screen readers.
        note: what the curves leave out.
    """

    title: str
    lines: list[Curve]
    steps: list[Tick]
    values: list[Tick]
    spoken: str
    note: str = ""


def chart(
    title: str, curves: dict[str, Points], *, mean: bool = False, from_zero: bool = False
) -> Chart | None:
    """A chart of one or two curves over the steps, or None where there is nothing to draw.

    Args:
        curves: (step, value) by name.
        mean: the first gets a moving mean over it, where it has points enough.
        from_zero: the axis of values begins at 0.
    """
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    shown = {name: points for name, points in finite.items() if points}
    if not shown:
        return None
    all_points = [point for points in shown.values() for point in points]
    steps, values = zip(*all_points, strict=True)
    area = _Area(steps, [0.0, *values] if from_zero else values)
    lost = sum(map(len, curves.values())) - len(all_points)
    return Chart(
        title,
        [
            line
            for (name, points), look in zip(shown.items(), LOOKS, strict=False)
            for line in _curves(name, points, look, mean and look == LOOKS[0], area)
        ],
        [Tick(area.across(step), _label(step)) for step in area.step_ticks],
        [Tick(area.down(value), _label(value)) for value in area.value_ticks],
        f"{title}: " + "; ".join(_spoken(*curve) for curve in shown.items()),
        f"{lost} value{'s are not numbers' if lost > 1 else ' is not a number'}" if lost else "",
    )


class _Area:
    """What the plot spans: the steps exactly, the values up to the next round numbers."""

    def __init__(self, steps: Sequence[float], values: Sequence[float]) -> None:
        self.first, self.last = min(steps), max(steps)
        self.step_ticks = [step for step in _round_numbers(self.first, self.last) if step == int(step)]
        self.step_ticks = [step for step in self.step_ticks if self.first <= step <= self.last]
        self.value_ticks = _round_numbers(min(values), max(values))

    def across(self, step: float) -> float:
        return 50.0 if self.first == self.last else 100 * (step - self.first) / (self.last - self.first)

    def down(self, value: float) -> float:
        low, high = self.value_ticks[0], self.value_ticks[-1]
        return 100 * (high - value) / (high - low)


def _curves(name: str, points: Points, look: str, mean: bool, area: _Area) -> list[Curve]:
    points = _thinned(points)
    path = "M" + "L".join(_places(points, area))
    if mean and len(points) >= MEAN_FROM:
        mean_path = "M" + "L".join(_places(_moving_mean(points), area))
        return [Curve(name, "faint", path), Curve("moving mean", look, mean_path)]
    few = points if len(points) <= MOST_DOTS else []
    return [Curve(name, look, path, "".join(f"M{place}h0" for place in _places(few, area)))]


def _places(points: Points, area: _Area) -> list[str]:
    return [f"{area.across(step):.2f} {area.down(value):.2f}" for step, value in points]


def _moving_mean(points: Points) -> Points:
    """Each value as the mean of a tenth of the curve around it."""
    half = max(1, len(points) // 20)
    return [
        (step, _mean([value for _, value in points[max(0, at - half) : at + half + 1]]))
        for at, (step, _) in enumerate(points)
    ]


def _thinned(points: Points) -> Points:
    """At most MOST_POINTS points: neighbors are averaged."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(_mean([step for step, _ in group]), _mean([value for _, value in group])) for group in groups]


def _round_numbers(low: float, high: float) -> list[float]:
    """About five evenly spaced numbers with few digits, from at or below `low` to at or above `high`."""
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    apart = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(apart))
    apart = next(times * magnitude for times in (1, 2, 5, 10) if times * magnitude >= apart * 0.999)
    numbers = range(math.floor(low / apart), math.ceil(high / apart) + 1)
    return [float(f"{number * apart:.12g}") for number in numbers]


def _spoken(name: str, points: Points) -> str:
    (first, begins), (last, ends) = points[0], points[-1]
    return f"{name} from {begins:.4g} at step {first:g} to {ends:.4g} at step {last:g}"


def _label(number: float) -> str:
    return f"{number:,.6g}" if abs(number) < 1e6 else f"{number:.3g}"


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
