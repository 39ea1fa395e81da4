"""Holds the HTML page that plot.py fills: its light and dark style, and its script.

plot.py replaces @TITLE@, @LEGEND@, @CHARTS@, @GEOMETRY@ and @VALUES@.
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --ink: #1f2328;
  --soft: #6a7078; --grid: #e8e8e6; --edge: #dcdcd8;
  --c0: #1f6fd0; --c1: #d9600f; --c2: #18875a; --c3: #a33cb3; --c4: #b8860b; --c5: #c2293f; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15171a; --card: #1c1f23; --ink: #e6e8ea; --soft: #9aa1a9; --grid: #2b2f35;
    --edge: #33383f;
    --c0: #5aa4ff; --c1: #ff9a4d; --c2: #45c48f; --c3: #d98ae6; --c4: #e3b93f; --c5: #ff7086; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 20px; background: var(--back); color: var(--ink);
  font: 14px/1.4 system-ui, "Helvetica Neue", Arial, sans-serif; }
nav { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 0 4px 16px; font-weight: 600; }
nav > span { display: inline-flex; align-items: center; gap: 8px; overflow-wrap: anywhere; }
.key { flex: none; width: 40px; height: 10px; }
small { color: var(--soft); font-weight: 400; font-size: 13px; }
nav > span:has(.advice) { align-items: flex-start; }
:has(.advice) > .key { margin-top: 5px; }
.advice { display: block; max-width: 46em; margin-top: 3px; color: var(--ink); }
main { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, max(460px, 34%)), 1fr)); }
figure { position: relative; container-type: inline-size; touch-action: pan-y; margin: 0;
  padding: 12px 12px 8px; background: var(--card);
  border: 1px solid var(--edge); border-radius: 8px; }
figcaption { margin: 0 4px 6px; font-weight: 600; }
figure:hover { z-index: 1; }
figure svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
@container (max-width: 560px) { svg text { font-size: 15px; } }
@media (max-width: 560px) { body { padding: 8px; } figure { padding: 8px 4px; } }
.x { text-anchor: middle; } .y { text-anchor: end; }
path { fill: none; } .grid { stroke: var(--grid); } .tick { stroke: var(--soft); }
.thin, .line, .thick { stroke: var(--c); stroke-linejoin: round; }
.thin { stroke-width: 1.1; opacity: .55; } .line { stroke-width: 1.5; }
.thick { stroke-width: 2.2; }
circle { fill: var(--c); } .ring { fill: none; stroke: var(--c); stroke-width: 2; }
.drop { stroke: var(--c); stroke-dasharray: 1.5 3; }
.best { fill: var(--ink); paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.cursor { stroke: var(--soft); stroke-dasharray: 3 3; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
.d1 { stroke-dasharray: 7 3; } .d2 { stroke-dasharray: 2 2.5; }
.d3 { stroke-dasharray: 9 3 2 3; } .d4 { stroke-dasharray: 14 4; }
.tip { position: absolute; display: none; pointer-events: none; z-index: 1; padding: 6px 9px;
  background: var(--card); border: 1px solid var(--edge); border-radius: 6px;
  left: 0; width: max-content; max-width: 100%; overflow-wrap: anywhere;
  box-shadow: 0 2px 8px rgb(0 0 0 / .18); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.tip b { color: var(--c); }
</style>
</head>
<body>
<nav>@LEGEND@<small>in the loss chart, thin is training, thick is validation, and a ring
marks the lowest validation loss</small></nav>
<main>@CHARTS@</main>
<script>
"use strict";
const geometry = @GEOMETRY@, values = @VALUES@;

const nearest = (points, step) => points.reduce((best, point) =>
  Math.abs(point[0] - step) <= Math.abs(best[0] - step) ? point : best);

for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg"), tip = figure.querySelector(".tip");
  const cursor = figure.querySelector(".cursor"), chart = values[figure.dataset.chart];
  const hide = () => {
    tip.style.display = "none";
    cursor.setAttribute("d", "");
  };
  const show = event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    if (x < geometry.left || x > geometry.right) return hide();
    const step = (x - geometry.left) / (geometry.right - geometry.left) * chart.last;
    cursor.setAttribute("d", `M${x} ${geometry.top}V${geometry.bottom}`);
    tip.replaceChildren(...chart.lines.map(line => {
      const [at, value] = nearest(line.points, step), row = document.createElement("div");
      const number = document.createElement("b"), n = line.mean_of;
      number.className = line.look;
      number.textContent = value.toLocaleString("en", {maximumSignificantDigits: 5});
      row.append(number, ` ${line.name}, ${n > 1 ? `mean of ${n} to step` : "step"} `
        + at.toLocaleString("en"));
      return row;
    }));
    tip.style.display = "block";
    const outer = figure.getBoundingClientRect(), left = event.clientX - outer.left;
    const is_right = left + 16 + tip.offsetWidth > outer.width;
    tip.style.left = (is_right ? Math.max(0, left - 16 - tip.offsetWidth) : left + 16) + "px";
    tip.style.top = Math.max(0, Math.min(event.clientY - outer.top + 14,
      outer.height - tip.offsetHeight - 4)) + "px";
  };
  figure.addEventListener("pointermove", show);
  figure.addEventListener("pointerdown", show);  // a finger that taps does not move
  figure.addEventListener("pointerleave", event => event.pointerType === "touch" || hide());
  document.addEventListener("pointerdown", event => figure.contains(event.target) || hide());
}
</script>
</body>
</html>
"""
