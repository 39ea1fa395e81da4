// The residual stream: a chart for the chosen token, and maps of the whole text.

// On a phone the chart is drawn narrower, so that its words keep their size.
let chartWidth = 520;
function measureChart() {
  chartWidth = Math.max(300, Math.min(520, $("stream").clientWidth || 520));
}

function showStream() {
  const norms = data.stream_norms.map(row => row[token]), means = data.stream_norms.map(meanOf);
  const added = [data.attn_norms, data.mlp_norms].map(rows => rows.map(row => row[token]));
  const chart = chartOf(Math.max(...norms, ...means, ...added.flat()));
  const svg = [...chart.grid(), ...chart.bars(added)];
  svg.push(`<path class="mean" d="${chart.line(means)}"/>`);
  svg.push(`<path class="line" d="${chart.line(norms)}"/>`, ...chart.dots(norms));
  $("stream").setAttribute("viewBox", `0 0 ${chart.width} 250`);
  $("stream").innerHTML = svg.join("");
  $("stream").setAttribute("aria-label", `Lengths: the embedding ${short(norms[0])}; `
    + added[0].map((a, l) => `block ${l}: attention adds ${short(a)}, `
      + `the MLP ${short(added[1][l])}, which makes ${short(norms[l + 1])}`).join("; "));
}

// The measures of a chart whose largest value is `largest`, and its parts as SVG.
function chartOf(largest) {
  const L = data.n_layer, top = 12, bottom = 216, left = 46, most = 1.08 * largest || 1;
  const width = chartWidth, right = width - 10;
  const x = depth => left + 24 + (right - left - 40) * depth / L;
  const y = value => Math.max(0, bottom - (bottom - top) * value / most);
  const bar = (name, l, at, value, each) => `<rect class="${name}" x="${at}" y="${y(value)}"
    width="${each}" height="${bottom - y(value)}"><title>block ${l}, ${
  name === "attn" ? "attention" : "MLP"}: ${short(value)}</title></rect>`;
  return {
    width,
    line: values => `M${values.map((value, depth) => `${x(depth)} ${y(value)}`).join("L")}`,
    grid() {
      const step = 10 ** Math.floor(Math.log10(most));
      const tick = most / step > 5 ? 2 * step : most / step > 2 ? step : step / 2, lines = [];
      for (let value = 0; value <= most; value += tick)
        lines.push(`<path class="grid" d="M${left} ${y(value)}H${right}"/>
          <text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${short(value)}</text>`);
      lines.push(`<text x="${(left + right) / 2}" y="${bottom + 33}"
        text-anchor="middle">after block</text>`);
      return lines;
    },
    bars([attn, mlp]) {
      const each = Math.min(22, (right - left) / L / 3.4);
      return attn.map((value, l) => {
        const middle = (x(l) + x(l + 1)) / 2;
        return bar("attn", l, middle - each - 1, value, each)
          + bar("mlp", l, middle + 1, mlp[l], each);
      });
    },
    dots(norms) {
      const every = Math.ceil(L / 8);
      return norms.map((value, depth) => `<circle class="dot" cx="${x(depth)}" cy="${y(value)}"
        r="3.5"><title>${depth ? `after block ${depth - 1}` : "embedding"}: ${short(value)}</title>
        </circle>` + (depth % every && depth !== L ? "" : `<text x="${x(depth)}"
        y="${bottom + 18}" text-anchor="middle">${depth ? depth - 1 : "emb."}</text>`));
    },
  };
}

// One map: a row for each block, a column for each token, darker where the vector is longer.
function mapOf(caption, color, rows, nameOf) {
  const sorted = rows.flat().sort((a, b) => a - b), rgb = rgbOf(color);
  const most = sorted[Math.floor(0.95 * (sorted.length - 1))] || 1;
  const body = rows.map((row, depth) => {
    const alphas = row.map(value => 255 * Math.min(1, value / most));
    const strip = made("td", { className: "strip" }, painted(row.length, 1, rgb, alphas));
    strip.values = row;
    strip.name = nameOf(depth);
    return made("tr", {}, made("th", { scope: "row", textContent: nameOf(depth) }), strip,
      made("td", { textContent: short(meanOf(row)) }));
  });
  return made("table", { className: "map" },
    made("caption", {}, made("b", { textContent: caption }), ` darkest: ${short(most)} or more`),
    made("tr", {}, made("td"), made("th", { scope: "col", textContent: "each token" }),
      made("th", { scope: "col", textContent: "mean" })), ...body);
}

function drawMaps() {
  const block = l => `block ${l}`;
  $("maps").style.setProperty("--count", data.tokens.length);
  $("maps").replaceChildren(
    mapOf("Added by attention", "--look", data.attn_norms, block),
    mapOf("Added by the MLP", "--mlp", data.mlp_norms, block),
    mapOf("The stream after", "--ink", data.stream_norms, d => d ? block(d - 1) : "embedding"));
}

// The token of a map at which the mouse points, or undefined.
function mappedToken(event) {
  const strip = event.target.closest?.(".strip");
  if (!strip) return undefined;
  const { left, width } = strip.getBoundingClientRect(), T = data.tokens.length;
  const t = Math.max(0, Math.min(T - 1, Math.floor((event.clientX - left) / width * T)));
  strip.title = `${strip.name}, token ${t} ${visible(data.tokens[t])}: ${short(strip.values[t])}`;
  return t;
}
