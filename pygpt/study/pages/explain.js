"use strict";
// Shows an explanation (explanation.py says what it holds) and keeps three choices: a token, a
// layer and a head. Every part of the page is drawn again from them.
const $ = id => document.getElementById(id);
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const percent = p => p >= 0.0995 ? `${(100 * p).toFixed(0)} %`
  : p >= 0.00095 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %";
const visible = text => text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥")
  .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, c => `\\u${c.codePointAt(0).toString(16)}`);
const bitsOf = logprob => -logprob / Math.LN2;
const tint = (color, share) => `color-mix(in srgb, var(${color}) ${Math.round(100 * share)}%, transparent)`;
const surprise = bits => tint("--heat", 0.72 * Math.min(bits / 10, 1));

let data, patterns, token = 0, layer = 0, head = 0;

// A pattern holds the rows of the triangle one after another, in 255ths.
const weight = (pattern, t, j) => pattern[t * (t + 1) / 2 + j] / 255;

function buttonOf(t, color) {
  const text = data.tokens[t];
  const button = made("button", { className: "token", type: "button" });
  button.dataset.t = t;
  button.style.background = color;
  if (/^\n+$/.test(text)) button.append(made("span", { className: "space", textContent: "↵" }));
  button.append(text);
  return button;
}

function drawText() {
  $("text").replaceChildren(...data.tokens.map((_, t) =>
    buttonOf(t, t ? surprise(bitsOf(data.logprobs[t])) : "none")));
  $("scale").replaceChildren(...[0, 2, 4, 6, 8, 10].map(bits => {
    const span = made("span", { textContent: bits < 10 ? bits : "10 +" });
    span.style.background = surprise(bits);
    return span;
  }));
}

function drawHeads() {
  const L = data.n_layer, H = data.n_head, T = data.tokens.length, grid = $("heads");
  grid.style.gridTemplateColumns = `max-content repeat(${H}, minmax(26px, ${H > 8 ? 40 : 72}px))`;
  const cells = [made("span")];
  for (let h = 0; h < H; h++) cells.push(made("span", { textContent: H > 12 ? h : `head ${h}` }));
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--look").trim().match(/[0-9a-f]{2}/gi).map(x => parseInt(x, 16));
  for (let l = 0; l < L; l++) {
    cells.push(made("span", { textContent: `block ${l}` }));
    for (let h = 0; h < H; h++) {
      const canvas = made("canvas", { width: T, height: T });
      const context = canvas.getContext("2d"), image = context.createImageData(T, T);
      for (let t = 0; t < T; t++)
        for (let j = 0; j <= t; j++) {
          const at = 4 * (t * T + j);
          [image.data[at], image.data[at + 1], image.data[at + 2]] = ink;
          image.data[at + 3] = 255 * Math.sqrt(weight(patterns[l][h], t, j));
        }
      context.putImageData(image, 0, 0);
      const button = made("button", { type: "button" }, canvas);
      button.setAttribute("aria-label", `block ${l}, head ${h}`);
      button.addEventListener("click", () => { layer = l; head = h; showAttention(); });
      button.dataset.head = `${l},${h}`;
      cells.push(button);
    }
  }
  grid.replaceChildren(...cells);
}

function showAttention() {
  for (const button of $("heads").querySelectorAll("button"))
    button.setAttribute("aria-pressed", button.dataset.head === `${layer},${head}`);
  const pattern = patterns[layer][head], weights = [];
  for (let j = 0; j <= token; j++) weights.push(weight(pattern, token, j));
  const most = weights.indexOf(Math.max(...weights));
  $("looks").replaceChildren(`In block ${layer}, head ${head}, `, codeOf(token),
    " looks most at ", codeOf(most),
    most === token ? ` (itself, ${percent(weights[most])}).`
      : ` (${token - most} ${token - most === 1 ? "token" : "tokens"} before, ${percent(weights[most])}).`);
  $("looked").replaceChildren(...data.tokens.map((_, j) => {
    const button = buttonOf(j, j <= token ? tint("--glow", 0.85 * Math.sqrt(weights[j])) : "none");
    button.classList.toggle("later", j > token);
    button.classList.toggle("chosen", j === token);
    button.tabIndex = -1;
    if (j <= token) button.title = percent(weights[j]);
    return button;
  }));
}

const codeOf = t => made("code", { textContent: visible(data.tokens[t]) });

function showNext() {
  const choice = data.lens.at(-1)[token], follower = data.ids[token + 1];
  const rows = choice.best.flatMap(([id, logprob]) => {
    const p = Math.exp(logprob), target = id === follower ? " target" : "";
    const bar = made("div", { className: `bar${target}` });
    bar.style.width = `${100 * p}%`;
    return [made("code", { className: target.trim(), textContent: visible(data.names[id]) }), bar,
      made("span", { textContent: percent(p) })];
  });
  $("next").replaceChildren(...rows);
}

function showLens() {
  const head = made("tr", {}, made("th", { textContent: "after" }),
    made("th", { textContent: "likeliest, with probability" }),
    made("th", { textContent: "the real next" }), made("th", { textContent: "rank" }));
  const follower = data.ids[token + 1];
  $("lens").replaceChildren(head, ...data.lens.map((choices, depth) => {
    const { logprob, best } = choices[token], place = best.findIndex(([id]) => id === follower);
    const cell = made("td");
    best.slice(0, 5).forEach(([id, value]) => cell.append(
      made("code", { className: id === follower ? "target" : "", textContent: visible(data.names[id]) }),
      made("small", { textContent: ` ${percent(Math.exp(value))}   ` })));
    return made("tr", {}, made("td", { textContent: depth ? `block ${depth - 1}` : "embeddings" }),
      cell, made("td", { textContent: follower === undefined ? "" : percent(Math.exp(logprob)) }),
      made("td", { textContent: place < 0 ? "" : place + 1 }));
  }));
}

function showStream() {
  const L = data.n_layer, norms = data.stream_norms.map(row => row[token]);
  const parts = [data.attn_norms, data.mlp_norms].map(rows => rows.map(row => row[token]));
  const left = 46, right = 510, top = 12, bottom = 216, most = 1.08 * Math.max(...norms, ...parts.flat());
  const x = depth => left + 24 + (right - left - 40) * depth / L;
  const y = value => bottom - (bottom - top) * value / most;
  const step = 10 ** Math.floor(Math.log10(most)), tick = most / step > 5 ? 2 * step : most / step > 2 ? step : step / 2;
  const svg = [];
  for (let value = 0; value <= most; value += tick)
    svg.push(`<path class="grid" d="M${left} ${y(value)}H${right}"/><text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${+value.toPrecision(3)}</text>`);
  const width = Math.min(22, (right - left) / L / 3.4);
  parts[0].forEach((value, l) => {
    const middle = (x(l) + x(l + 1)) / 2;
    svg.push(`<rect class="attn" x="${middle - width - 1}" y="${y(value)}" width="${width}" height="${bottom - y(value)}"/>`,
      `<rect class="mlp" x="${middle + 1}" y="${y(parts[1][l])}" width="${width}" height="${bottom - y(parts[1][l])}"/>`);
  });
  svg.push(`<path class="line" d="M${norms.map((value, depth) => `${x(depth)} ${y(value)}`).join("L")}"/>`);
  const each = Math.ceil(L / 8);
  norms.forEach((value, depth) => {
    svg.push(`<circle class="dot" cx="${x(depth)}" cy="${y(value)}" r="3.5"/>`);
    if (depth % each === 0 || depth === L)
      svg.push(`<text x="${x(depth)}" y="${bottom + 18}" text-anchor="middle">${depth ? depth - 1 : "emb."}</text>`);
  });
  svg.push(`<text x="${(left + right) / 2}" y="${bottom + 33}" text-anchor="middle">after block</text>`);
  $("stream").innerHTML = svg.join("");
  $("stream").setAttribute("aria-label", `The stream's length grows from ${norms[0].toPrecision(3)} to ${norms.at(-1).toPrecision(3)}.`);
}

function showChosen() {
  const line = ["Token ", made("b", { textContent: token }), " is ", codeOf(token)];
  if (token) {
    const [guess, logprob] = data.lens.at(-1)[token - 1].best[0];
    const bits = bitsOf(data.logprobs[token]);
    line.push(`: probability ${percent(Math.exp(data.logprobs[token]))}, loss ${(-data.logprobs[token]).toFixed(2)} nats (${bits.toFixed(1)} bits). `);
    line.push(...guess === data.ids[token] ? ["It was the likeliest."]
      : ["The likeliest was ", made("code", { textContent: visible(data.names[guess]) }), ` (${percent(Math.exp(logprob))}).`]);
  } else line.push(": the first one. Nothing before it tells of it, so it has no loss.");
  $("chosen").replaceChildren(...line);
  for (const code of document.querySelectorAll(".now")) code.textContent = visible(data.tokens[token]);
}

function choose(t, focus = false) {
  token = Math.max(0, Math.min(t, data.tokens.length - 1));
  for (const button of $("text").children) {
    const is = +button.dataset.t === token;
    button.classList.toggle("chosen", is);
    button.tabIndex = is ? 0 : -1;
    button.setAttribute("aria-pressed", is);
    if (is && focus) button.focus();
  }
  showChosen(); showNext(); showStream(); showAttention(); showLens();
}

function show(explanation) {
  data = explanation;
  patterns = data.patterns.map(layer => layer.map(text => Uint8Array.from(atob(text), c => c.charCodeAt(0))));
  [layer, head] = [Math.min(layer, data.n_layer - 1), Math.min(head, data.n_head - 1)];
  const losses = data.logprobs.slice(1), nats = losses.reduce((sum, x) => sum - x, 0) / losses.length;
  $("summary").textContent = `${data.tokens.length} tokens, ${data.n_layer} blocks of ${data.n_head} heads, `
    + `${data.n_embd} channels, ${data.vocab_size.toLocaleString("en")} tokens in the vocabulary`
    + (losses.length ? `; mean loss ${nats.toFixed(3)} nats (${(nats / Math.LN2).toFixed(2)} bits) a token` : "")
    + (data.note ? `. ${data.note}` : "");
  drawText();
  drawHeads();
  choose(Math.max(0, data.tokens.length - 2));  // the last token has no follower yet
}

const pointed = event => event.target.closest?.(".token");
for (const id of ["text", "looked"])
  $(id).addEventListener("click", event => pointed(event) && choose(+pointed(event).dataset.t, id === "text"));
// A mouse chooses by pointing; a finger by a tap.
$("text").addEventListener("pointerover", event =>
  event.pointerType === "mouse" && pointed(event) && choose(+pointed(event).dataset.t));
$("text").addEventListener("keydown", event => {
  const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  choose(token + steps[event.key], true);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => data && (drawHeads(), showAttention()));

const embedded = $("data").textContent;
if (embedded.trim()) show(JSON.parse(embedded));
