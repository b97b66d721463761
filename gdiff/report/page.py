"""One HTML file that compares runs: it needs no network, no server and no files beside it."""

import base64
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gdiff import __version__, memory
from gdiff.figures.encode import png
from gdiff.figures.images import to_rgb
from gdiff.report.charts import COLOURS, Curve, bar_chart, dash_of, line_chart
from gdiff.report.screen import duration, with_spread
from gdiff.report.words import meaning, without_spreads
from gdiff.runs import Group, PastRun, common, differing, seeds_apart, series
from gdiff.runs.differ import as_text, number_of
from gdiff.runs.groups import SEED
from gdiff.store.files import replacing

# The page of a sweep, in its folder.
FILE = "report.html"
# Samples of a run side by side, and pixels of a side beyond which they are made smaller.
_SHOWN, _SIDE = 8, 128
# Bytes of pictures on a page, and lines of a chart, beyond which the rest is left out.
_MOST_PICTURES, _MOST_LINES = 24 * 2**20, 40
_HERE = Path(__file__).parent
# Charts that are drawn of metrics, these first.
_FIRST = ("sliced_w2", "frechet_pca", "kid_pca", "nn_distance", "copy_fraction", "kl_total")
_MOST_CHARTS = 9
_LEAST_NATS = 1e-4  # that are drawn: less is nothing
_TERMS = ("initialization", "discretization", "score", "picard")


def write(path: Path, runs: Sequence[PastRun], damaged: Sequence[str], title: str) -> None:
    """Write the page of runs, at least one, to a file.

    Args:
        path: of the file, which is replaced.
        runs: to compare.
        damaged: a line for each run that was left out.
        title: of the page.

    Raises:
        UserError: it cannot be written.
    """
    content = html(runs, damaged, title).encode()
    with replacing(path) as file:
        file.write(content)


def html(runs: Sequence[PastRun], damaged: Sequence[str], title: str) -> str:
    """The page as text; arguments as of `write`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # What runs hold is text of anyone's: all of it is escaped, and the page's own script alone
    # may run.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.jinja").render(
        page=_Page(list(runs)),
        damaged=damaged,
        title=title,
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        script=script,
        digest=digest,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
    )


@dataclass
class _Page:
    """What the template asks for."""

    runs: list[PastRun]
    left_out: int = 0
    _room: int = field(default_factory=lambda: _MOST_PICTURES)
    _axes: series.Axes = field(init=False)
    _lines: list[str] = field(init=False)
    _places: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._axes = series.axes(self.runs)
        self._lines = list(dict.fromkeys(self._line(run) for run in self.runs))
        along = _unique(map(self._along, self.runs))
        self._places = along if self._axes.lines else [""]
        self.differences = differing(self.runs)
        self.common = common(self.runs)
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        self.metrics = without_spreads(sorted(names, key=_rank))
        self.varying = [name for name in self.metrics if self._varies(name)] or self.metrics
        self.fixed = {n: self._text_of(n) for n in self.metrics if n not in self.varying}

    def _varies(self, name: str) -> bool:
        return len({run.metrics.get(name) for run in self.runs}) > 1

    def _text_of(self, name: str) -> str:
        return with_spread(name, self.runs[0].metrics)

    def _line(self, run: PastRun) -> str:
        """What tells a run from those of other colours."""
        return series.line_of(run, self._axes) or self._along(run)

    def _along(self, run: PastRun) -> str:
        """Where a run stands on the axis."""
        x = self._axes.x
        return as_text(run.settings[x]) if x in run.settings else ""

    def colour(self, run: PastRun) -> int:
        """Number of a run's colour."""
        return self._lines.index(self._line(run)) % COLOURS

    def _dash(self, run: PastRun) -> int:
        value = self._along(run)
        return self._places.index(value) if value in self._places else 0

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Colour and label of the lines."""
        return [(k % COLOURS, label) for k, label in enumerate(self._lines) if label]

    @property
    def dashes(self) -> list[tuple[str, str]]:
        """Dashes and label of curves that share a colour."""
        if len(self._places) < 2:
            return []
        return [(dash_of(k), f"{self._axes.x}={value}") for k, value in enumerate(self._places)]

    def words(self, run: PastRun) -> str:
        """What tells a run from the others, in a line."""
        place = self.runs.index(run)
        pairs = [(d.key, d.values[place]) for d in self.differences]
        told = (f"{key}={value}" for key, value in pairs if value not in (None, "null"))
        return ", ".join(told) or run.name

    @property
    def chips(self) -> list[tuple[str, list[str]]]:
        """Settings in which the runs differ, and their values."""
        return [(d.key, _unique(v for v in d.values if v is not None)) for d in self.differences]

    @property
    def statuses(self) -> list[tuple[str, int]]:
        """How many runs ended how."""
        found = _unique(run.status for run in self.runs)
        return [(status, sum(run.status == status for run in self.runs)) for status in found]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names of the columns of numbers, and what they mean."""
        return [(name, meaning(name)) for name in self.varying]

    def row(self, run: PastRun) -> list[tuple[str, str]]:
        """Text of a run's cells and what they sort by: settings, and then metrics."""
        place = self.runs.index(run)
        settings = [d.values[place] for d in self.differences]
        found = [("" if v is None else v, "" if v is None else v) for v in settings]
        own = run.metrics
        numbers = (
            (with_spread(name, own), repr(own[name])) if name in own else ("", "")
            for name in self.varying
        )
        return [*found, *numbers]

    @property
    def averaged(self) -> list[tuple[Group, list[tuple[str, str]]]]:
        """Settings that were run with several seeds, and their cells."""
        groups = [group for group in seeds_apart(self.runs) if len(group.runs) > 1]
        if not any(d.key == SEED for d in self.differences):
            return []
        return [(group, [self._mean(group, name) for name in self.varying]) for group in groups]

    def _mean(self, group: Group, name: str) -> tuple[str, str]:
        found = group.mean(name)
        if found is None:
            return "", ""
        is_spread = found.error is not None and found.error > 1e-9 * abs(found.value)
        error = f" ± {found.error:.2g}" if is_spread else ""
        return f"{found.value:.4g}{error}", repr(found.value)

    @property
    def group_keys(self) -> list[str]:
        """Settings in which averages differ."""
        return [d.key for d in self.differences if d.key != SEED]

    def is_number(self, value: str | None) -> bool:
        """Whether a cell is one, and stands to the right."""
        return number_of(value) is not None

    # Pictures

    @property
    def seeds(self) -> list[tuple[str, list[PastRun]]]:
        """Seed, and its runs."""
        found: dict[str, list[PastRun]] = {}
        for run in self.runs:
            found.setdefault(as_text(run.settings.get(SEED, "")), []).append(run)
        return list(found.items())

    def samples(self, run: PastRun) -> list[str]:
        """The first samples as pictures, if they are images."""
        found = run.samples(_SHOWN)
        if found is None or found.ndim != 4 or found.shape[-1] > 4 or 0 in found.shape:
            return []
        return self._affordable([png(_small(image)) for image in to_rgb(found)])

    def picture(self, run: PastRun, name: str) -> str | None:
        """A picture that the run has left; None where there is none, or no room."""
        content = run.picture(name)
        return next(iter(self._affordable([content])), None) if content else None

    @property
    def neighbours(self) -> list[tuple[PastRun, str]]:
        """Runs of images, and their samples above the data points nearest to them."""
        found = ((run, self.picture(run, "neighbours.png")) for run in self.runs)
        return [(run, picture) for run, picture in found if picture is not None]

    def _affordable(self, pictures: list[bytes]) -> list[str]:
        """Pictures as addresses, while the page has room for them."""
        size = sum(map(len, pictures))
        if size > self._room:
            self.left_out += 1
            return []
        self._room -= size
        return [f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in pictures]

    # Charts

    @property
    def charts(self) -> Iterator[tuple[str, str, str]]:
        """Name, meaning and chart of metrics against the setting that suits best."""
        if self._axes.x is None:
            return
        found = ((name, self._curves(name)) for name in self.varying)
        usable = ((name, curves) for name, curves in found if curves and not _is_plain(curves))
        for name, curves in islice(usable, _MOST_CHARTS):
            yield name, meaning(name), line_chart(curves, name, self._axes.x, self._axes.names)

    def _curves(self, name: str) -> list[Curve]:
        """A metric's lines; where places have names, a mark each in its own colour."""
        if not any(name in run.metrics and run.is_done for run in self.runs):
            return []
        found = []
        for line in series.series(self.runs, name, self._axes)[:_MOST_LINES]:
            own = [
                k for k, r in enumerate(self.runs) if series.line_of(r, self._axes) == line.label
            ]
            if line.label in self._lines or not self._axes.names:
                colour = self._lines.index(line.label) if line.label in self._lines else 0
                found.append(Curve(line.label, line.x, line.y, line.error, colour, 0, own))
                continue
            for x, y, error in zip(line.x, line.y, line.error, strict=True):
                label = self._axes.names[int(x)]
                colour = self._lines.index(label) if label in self._lines else 0
                found.append(Curve(label, [x], [y], [error], colour, 0, own))
        return [curve for curve in found if curve.x]

    @property
    def score_errors(self) -> str | None:
        """The error of scores against the noise level, a line a run."""
        title = "median relative error of the score"
        return self._by_level("score_error.csv", "relative_error_median", title)

    @property
    def spent(self) -> str | None:
        """Nats that were spent from the prior down to each noise level, a line a run."""
        title = "nats spent down to a noise level"
        return self._by_level("budget.csv", "total", title, _LEAST_NATS)

    def _by_level(self, file: str, column: str, title: str, least: float = 0.0) -> str | None:
        """A column of a table of runs against the noise level, where it is above the least."""
        curves = []
        for place, run in enumerate(self.runs):
            found = run.curve(file)
            x, y = found.get("sigma", []), found.get(column, [])
            usable = [(a, b) for a, b in zip(x, y, strict=False) if a > 0 and b > least]
            if usable and len(curves) < _MOST_LINES:
                pairs = list(zip(*usable, strict=True))
                look = (self.colour(run), self._dash(run), [place])
                curves.append(Curve(self.words(run), *pairs, (), *look))
        return line_chart(curves, title, "noise level σ") if curves else None

    @property
    def budgets(self) -> str | None:
        """The divergence in nats, a bar a run."""
        rows = []
        for place, run in enumerate(self.runs):
            parts = run.json("budget.json")
            sizes = [(name, _nats(parts.get(name))) for name in _TERMS]
            known = [(name, size) for name, size in sizes if size is not None]
            if "kl_total" in run.metrics and known:
                values = (d.values[place] for d in self.differences)
                told = [value for value in values if value not in (None, "null")]
                rows.append((", ".join(told) or run.name, place, known))
        return bar_chart(rows[:_MOST_LINES], "nats", "budget") if rows else None

    @property
    def terms(self) -> list[str]:
        """Names of the parts of the bars, in the order of their colours."""
        return [name for name in _TERMS if any(f"kl_{name}" in run.metrics for run in self.runs)]

    # Records

    @property
    def all_differences(self) -> list[tuple[str, list[str]]]:
        """Every setting that is not the same in all runs."""
        return [(d.key, ["" if v is None else v for v in d.values]) for d in self._whole]

    @property
    def _whole(self) -> list[Any]:
        return differing(self.runs, whole=True)

    @property
    def versions(self) -> list[tuple[str, list[str]]]:
        """What the runs were made with, and its values: one if all share it."""
        facts = [_facts(run) for run in self.runs]
        names = dict.fromkeys(name for each in facts for name in each)
        found = []
        for name in names:
            values = [each.get(name, "") for each in facts]
            found.append((name, values[:1] if len(set(values)) == 1 else values))
        return found

    def configuration(self, run: PastRun) -> str:
        """A run's settings, a line each."""
        return "\n".join(f"{k}: {as_text(v)}" for k, v in run.settings.items())

    def about(self, run: PastRun) -> str:
        """Age and size in a few words."""
        return f"{duration(run.age)} old, {memory.in_words(run.size)}"


def _rank(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _is_plain(curves: Sequence[Curve]) -> bool:
    """Whether a metric is but a multiple of what it would be drawn against, as evaluations are."""
    points = [(x, y) for curve in curves for x, y in zip(curve.x, curve.y, strict=True)]
    x, y = points[0]
    return len(points) > 1 and x > 0 and all(b * x == y * a for a, b in points)


def _unique(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def _nats(term: Any) -> float | None:
    """What a term of the budget adds; None where it does not apply."""
    nats = term.get("nats") if isinstance(term, Mapping) else None
    is_number = isinstance(nats, int | float) and math.isfinite(nats)
    return max(0.0, float(nats)) if is_number else None


def _facts(run: PastRun) -> dict[str, str]:
    """Versions, devices and data of a run."""
    versions, data = run.record.get("versions"), run.record.get("dataset")
    found = dict(versions) if isinstance(versions, Mapping) else {}
    if isinstance(data, Mapping):
        found |= {"data": f"{data.get('name')}, {data.get('points')} points"}
        found |= {"fingerprint of the data": data.get("fingerprint")}
    if isinstance(run.record.get("devices"), list):
        found["devices"] = ", ".join(map(str, run.record["devices"]))
    environment = run.record.get("environment")
    if isinstance(environment, Mapping) and environment:
        found["environment"] = " ".join(f"{k}={v}" for k, v in environment.items())
    seconds = run.record.get("seconds")
    if isinstance(seconds, Mapping):
        found["seconds in all"] = f"{sum(seconds.values()):.3g}"
    return {name: str(value) for name, value in found.items()}


def _small(image: np.ndarray) -> np.ndarray:
    """An image [h, w, 3] of a size for a page."""
    from PIL import Image

    if max(image.shape[:2]) <= _SIDE:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    return np.asarray(picture)
