"""Draws the curves of one or more runs on one HTML page: `python -m pygpt plot OUT`.

    log.jsonl -> series of (step, value) -> at most POINTS of them -> SVG

The page needs no other file. It has four charts: the loss (training is a thin line, validation a
thick line with dots, its lowest loss has a ring), the learning rate, the gradient's norm and the
throughput. Under the name of a run stands the advice that its log holds. The page's script only
shows the values under the pointer.
"""

import html
import json
import math
import os
import re

from pygpt.files import replacing
from pygpt.training.plot_page import PAGE
from pygpt.training.run_log import has_numbers, read_log

POINTS = 500                             # of a curve; longer curves are averaged
WIDTH, HEIGHT = 640, 306                 # of a chart, in the SVG's units
LEFT, RIGHT, TOP, BOTTOM = 66, 614, 10, 266  # the edges of its axes
FINEST = 1e-12                           # range that is drawn, relative to its values
COLORS, DASHES = 6, 5                    # in the page's style, so that 30 runs look different

CHARTS = [  # (title, field of a step's record, unit)
    ("Loss", "loss", "nats per token"),
    ("Learning rate", "learning_rate", ""),
    ("Gradient norm", "grad_norm", "before clipping"),
    ("Throughput", "tokens_per_second", "tokens per second"),
]


def plot(directories, target):
    """Write the page.

    Args:
        directories: the output directories of the runs, each with a log.jsonl.
        target: the path of the HTML file.
    Raises:
        OSError: a log cannot be read, or the page cannot be written.
        ValueError: a log is damaged or has no step in it.
    """
    runs = []
    for number, directory in enumerate(directories):
        path = os.path.join(directory, "log.jsonl")
        records = read_log(path)
        if not any(record["event"] == "step" for record in records):
            raise ValueError(f"{path}: no step has been logged yet")
        runs.append((os.path.normpath(directory), number, records))
    with replacing(target) as file:
        file.write(page(runs).encode("utf-8", "replace"))  # half a surrogate pair becomes "?"


def page(runs):
    """Return the HTML text of a page.

    Args:
        runs: a sequence of (name, number, records).
    """
    legend = "".join(f'<span><svg class="key {line_classes(number)}">'
                     '<path class="thick" d="M0 5H40"/></svg>'
                     f"<span>{html.escape(name)}"
                     f" <small>{html.escape(summary(records))}</small>{advice(records)}"
                     "</span></span>"
                     for name, number, records in runs)
    charts, values = zip(*(chart(index, *row, runs) for index, row in enumerate(CHARTS)))
    geometry = json.dumps({"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM})
    title = html.escape(", ".join(name for name, _, _ in runs))
    return filled(PAGE, {"@TITLE@": title, "@LEGEND@": legend, "@CHARTS@": "".join(charts),
                         "@GEOMETRY@": geometry,
                         "@VALUES@": json.dumps(values).replace("</", "<\\/")})


def filled(template, texts):
    """Return a template with each place, such as @TITLE@, replaced by its HTML in `texts`. What is
    put in is not looked at again."""
    return re.sub("@[A-Z]+@", lambda place: texts[place[0]], template)


def line_classes(number):
    """Return the CSS classes of a run's lines: one sets the color, the other the dashes."""
    return f"c{number % COLORS} d{number % DASHES}"


def summary(records):
    """Describe a run in a few words."""
    steps = [record["step"] for record in records if record["event"] == "step"]
    found = best(records)
    return f"{steps[-1]:,} steps" + (f", best validation loss {found[1]:.4f} at step {found[0]:,}"
                                     if found else "")


def best(records):
    """Return (step, validation loss) of the first validation with the lowest loss, or None."""
    return min(series(records, "eval", "val_loss"), key=lambda point: point[1], default=None)


def advice(records):
    """Return the advice that a log holds as HTML, in the order of its steps: of each topic what was
    said last, or "" if there is none. Settings are named as in the log, `name=value`."""
    last = {str(record.get("topic")): record for record in records
            if record["event"] == "advice" and isinstance(record.get("text"), str)}
    return "".join(f'<small class="advice">Advice at step {record["step"]:,}: '
                   f'{html.escape(record["text"].rstrip("."))}.</small>'
                   for record in sorted(last.values(), key=lambda record: record["step"]))


def series(records, event, field):
    """List the (step, value) pairs of a field whose values an axis can show."""
    return [(record["step"], float(record[field])) for record in records
            if record["event"] == event and has_numbers(record, field)]


def group_size(points, most):
    """Return how many neighbours to average so that at most `most` points are left."""
    return -(-len(points) // most)


def thinned(points, most=POINTS):
    """Average neighbouring points so that at most `most` points are left."""
    size = group_size(points, most)
    groups = [points[i : i + size] for i in range(0, len(points), size or 1)]
    return [(group[-1][0], math.fsum(value for _, value in group) / len(group))
            for group in groups]


def chart(index, title, field, unit, runs):
    """Draw one chart.

    Returns:
        (HTML text, data for the page's script: {"last": the last step on the axis, "lines": a list
        of {"name", "look": CSS classes, "mean_of": values averaged in a point, "points"}}).
    """
    lines = []  # (name, classes, kind, points, number of values averaged in a point)
    bests = []  # (color class, (step, value))
    for name, number, records in runs:
        kinds = [(name, "thin" if field == "loss" else "line", series(records, "step", field))]
        if field == "loss":
            kinds.append((f"{name}, validation", "thick", series(records, "eval", "val_loss")))
            if (found := best(records)) is not None:
                bests.append((line_classes(number).split()[0], found))
        lines += [(label, line_classes(number), kind, thinned(points),
                   group_size(points, POINTS)) for label, kind, points in kinds if points]
    all_points = [point for *_, points, _ in lines for point in points]
    x_axis = Axis(0, max([1, *(step for step, _ in all_points)]), LEFT, RIGHT, 6)
    low, high = span([value for _, value in all_points],
                     from_zero=field in ("tokens_per_second", "learning_rate"))
    low = min([low, *(value for _, (_, value) in bests)])  # averaged points may all lie higher
    y_axis = Axis(low, high, BOTTOM, TOP, 5, round_out=True)
    parts = [f'<path class="grid" d="M{LEFT} {place:.1f}H{RIGHT}"/>'
             f'<text class="y" x="{LEFT - 8}" y="{place + 4:.1f}">{label}</text>'
             for place, label in y_axis.ticks()]
    parts += [f'<path class="tick" d="M{place:.1f} {BOTTOM}v4"/>'
              f'<text class="x" x="{place:.1f}" y="{BOTTOM + 18}">{label}</text>'
              for place, label in x_axis.ticks()]
    parts.append(f'<text class="x unit" x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 5}">step</text>')
    for _, classes, kind, points, _ in lines:
        places = [(x_axis.place(step), y_axis.place(min(value, y_axis.high)))
                  for step, value in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="{kind} {classes}" d="{path}"/>')
        if kind == "thick" and len(places) <= 60 or len(places) == 1:
            parts += [f'<circle class="{classes}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'
                      for x, y in places]
    parts += [mark(color, point, x_axis, y_axis, has_label=len(bests) == 1)
              for color, point in bests]
    unit = f" <small>{unit}</small>" if unit else ""
    text = (f'<figure data-chart="{index}"><figcaption>{title}{unit}</figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
            f'{"".join(parts)}<path class="cursor" d=""/></svg><div class="tip"></div></figure>')
    return text, {"last": x_axis.high, "lines": [
        {"name": name, "look": classes, "mean_of": size,
         "points": [[step, float(f"{value:.5g}")] for step, value in points]}
        for name, classes, _, points, size in lines]}


def mark(color, point, x_axis, y_axis, has_label):
    """Draw a ring around a run's best validation, and a line through it that leads down to its step
    and up to the label, if there is one."""
    step, value = point
    x, y = x_axis.place(step), y_axis.place(min(value, y_axis.high))
    is_right = x > (LEFT + RIGHT) / 2
    label = (f'<text class="best{" y" if is_right else ""}" x="{x + (-6 if is_right else 6):.1f}" '
             f'y="{TOP + 12}">best: step {step:,}</text>' if has_label else "")
    return (f'<path class="drop {color}" d="M{x:.1f} {TOP if has_label else y:.1f}V{BOTTOM}"/>'
            f'<circle class="ring {color}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>{label}')


def span(values, from_zero):
    """Return the lowest and the highest value that an axis shows.

    A few values far above the rest (a gradient's spikes) are cut off, for they would flatten the
    curve.
    """
    ordered = sorted(values) or [0.0]
    low, high = ordered[0], ordered[-1]
    usual = ordered[int(0.98 * (len(ordered) - 1))]
    if low >= 0 and high > 4 * usual > 0:
        high = 1.5 * usual
    if from_zero:
        low = min(0.0, low)
    middle = abs(low + high) / 2
    if high - low <= FINEST * max(middle, FINEST):
        half = (middle if middle > FINEST else 1) / 2
        low, high = low - half, high + half
    return low, high


class Axis:
    """Maps values to places on the page, with ticks at round numbers.

    Args:
        low, high: the values at the ends, low < high.
        start, end: the places of the ends on the page.
        count: the approximate number of ticks.
        round_out: whether the ends are moved outward to the next tick.
    """

    def __init__(self, low, high, start, end, count, round_out=False):
        self.step = tick_step(high - low, count)
        if round_out:
            low = math.floor(low / self.step + 1e-9) * self.step
            high = math.ceil(high / self.step - 1e-9) * self.step
        self.low, self.high, self._start, self._end = low, high, start, end

    def place(self, value):
        """Return the place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self):
        """List (place, label) of each tick."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [(self.place(i * self.step), tick_label(i * self.step, self.step))
                for i in range(first, last + 1)]


def tick_step(length, count):
    """Return the round step (1, 2 or 5 times a power of 10) for about count ticks in a length."""
    rough = length / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def tick_label(value, step):
    """Format a tick's value with enough digits for its step: "1,500", "0.002", "1.5e-4"."""
    if abs(value) < step / 2:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 10:
            digits = max(0, -math.floor(math.log10(step / size) + 1e-9))
            return f"{value / size:.{digits}f}{letter}"
    if step < 1e-4 and abs(value) < 0.01:
        digits = math.floor(math.log10(abs(value)) + 1e-9) - math.floor(math.log10(step) + 1e-9)
        return f"{value:.{max(0, digits)}e}".replace("e-0", "e-")
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
