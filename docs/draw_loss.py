"""Draws the loss of runs as a self-contained SVG: python docs/draw_loss.py OUT [OUT ...] FILE.svg.

Up to two more runs are drawn in other colors and dashed, each under the name of its directory. The
chart is that of `pygpt plot`. Its colors stand in the file, and follow the reader's light or dark
setting, because a repository page gives an image no style of its own.
"""

import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
from pygpt.training import plot, run_log

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
.y { text-anchor: end } .x { text-anchor: middle }
.grid, .tick { stroke: #8b949e; stroke-opacity: .35; fill: none }
.thin { stroke: #4393c3; stroke-opacity: .6; fill: none }
.thick { stroke: #d6604d; stroke-width: 2.2; fill: none }
circle { fill: #d6604d }
.c1.thin { stroke: #5aae61; stroke-dasharray: 5 3 }
.c1.thick { stroke: #9970ab; stroke-dasharray: 5 3 }
.c1 circle, circle.c1 { fill: #9970ab }
.c2.thin { stroke: #bf812d; stroke-dasharray: 1 3 }
.c2.thick { stroke: #01665e; stroke-dasharray: 1 3 }
.c2 circle, circle.c2 { fill: #01665e }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
"""
COLORS = ("#4393c3", "#d6604d"), ("#5aae61", "#9970ab"), ("#bf812d", "#01665e")
LABELS = ('<text x="330" y="40" style="fill:#4393c3">training loss, nats per token</text>'
          '<text x="330" y="60" style="fill:#d6604d">validation loss</text>')


def draw(outs, target):
    """Write the SVG of the runs in the directories `outs`, one to three."""
    runs = [(os.path.basename(os.path.normpath(out)), number,
             run_log.read_log(os.path.join(out, "log.jsonl"))) for number, out in enumerate(outs)]
    html, _ = plot.chart(0, *plot.CHARTS[0], runs)
    svg = re.search(r"<svg .*?</svg>", html, re.DOTALL)[0]
    labels = LABELS if len(runs) == 1 else "".join(
        f'<text x="330" y="{40 + 40 * number + 20 * kind}" style="fill:{COLORS[number][kind]}">'
        f'{name}, {what} loss</text>'
        for name, number, _ in runs for kind, what in enumerate(("training", "validation")))
    svg = svg.replace('<path class="cursor" d=""/>', labels)
    head, body = svg.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    with open(target, "w", encoding="utf-8") as file:
        file.write(f"{head}><style>{STYLE}</style>{body}\n")


if __name__ == "__main__":
    draw(sys.argv[1:-1], sys.argv[-1])
