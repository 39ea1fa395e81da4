// Shows an explanation (explanation.py says what it holds) and keeps three choices: a token, a
// block (`layer`) and a head. Pointing at a token chooses it; a click holds it, so that the mouse
// may pass over others on its way to another part of the page.
let data, patterns, token = 0, layer = 0, head = 0, held = false;

function drawText() {
  $("text").replaceChildren(...data.tokens.map((text, t) => {
    const bits = bitsOf(data.logprobs[t]);
    const span = tokenOf(text, t ? `${bits.toFixed(1)} bits` : "the first token");
    span.style.backgroundColor = t ? surprise(bits) : "transparent";
    return span;
  }));
  $("looked").replaceChildren(...data.tokens.map(text => tokenOf(text)));
  for (const id of ["text", "looked"])
    [...$(id).children].forEach((span, t) => { span.dataset.t = t; });
  $("scale").replaceChildren(...[0, 2, 4, 6, 8, 10].map(bits => {
    const span = made("span", { textContent: bits < 10 ? bits : "10 +" });
    span.style.backgroundColor = surprise(bits);
    return span;
  }));
}

function showChosen() {
  const line = ["Token ", made("b", { textContent: token }), " is ", codeOf(data.tokens[token])];
  if (token) {
    const [guess, logprob] = data.lens.at(-1)[token - 1].best[0], came = data.logprobs[token];
    line.push(`: probability ${percent(Math.exp(came))}, loss ${(-came).toFixed(2)} nats (${
      bitsOf(came).toFixed(1)} bits). `);
    line.push(...guess === data.ids[token] ? ["It was the likeliest."]
      : ["The likeliest was ", codeOf(data.names[guess]), ` (${percent(Math.exp(logprob))}).`]);
  } else line.push(": the first one. Nothing before it tells of it, so it has no loss.");
  if (held) line.push(" It is held: click it again, or press Escape, to let it go.");
  $("chosen").replaceChildren(...line);
  for (const code of document.querySelectorAll(".now"))
    code.textContent = visible(data.tokens[token]);
}

// A row of bars: a text, a bar as long as its probability, the number.
function barOf(text, p, target = false, title = "") {
  const bar = made("div", { className: target ? "bar target" : "bar" });
  bar.style.width = `${100 * p}%`;
  const code = codeOf(text);
  code.classList.toggle("target", target);
  return [code, bar, made("span", { textContent: percent(p), title })];
}

function showNext() {
  const { best, logprob } = data.lens.at(-1)[token], follower = data.ids[token + 1];
  const rows = best.flatMap(([id, value]) =>
    barOf(data.names[id], Math.exp(value), id === follower));
  if (follower !== undefined && !best.some(([id]) => id === follower))
    rows.push(...barOf(data.tokens[token + 1], Math.exp(logprob), true));
  $("next").replaceChildren(...rows);
}

function showLens() {
  const titles = ["after", "likeliest, with probability", "the real next", "rank"];
  const follower = data.ids[token + 1];
  const rows = data.lens.map((choices, depth) => {
    const { logprob, best } = choices[token], place = best.findIndex(([id]) => id === follower);
    const cell = made("td");
    for (const [id, value] of best.slice(0, 5)) {
      const code = codeOf(data.names[id]);
      code.classList.toggle("target", id === follower);
      cell.append(code, made("small", { textContent: ` ${percent(Math.exp(value))}   ` }));
    }
    const real = follower === undefined ? ["", ""]
      : [percent(Math.exp(logprob)), place < 0 ? `over ${best.length}` : place + 1];
    return made("tr", {},
      made("th", { scope: "row", textContent: depth ? `block ${depth - 1}` : "embeddings" }), cell,
      ...real.map(textContent => made("td", { textContent })));
  });
  $("lens").replaceChildren(made("tr", {}, ...titles.map(textContent =>
    made("th", { scope: "col", textContent }))), ...rows);
}

function choose(t) {
  token = Math.max(0, Math.min(t, data.tokens.length - 1));
  for (const id of ["text", "looked"]) {
    for (const span of $(id).querySelectorAll(".chosen")) {
      span.classList.remove("chosen");
      span.removeAttribute("aria-selected");
    }
    const span = $(id).children[token];
    span.classList.add("chosen");
    span.setAttribute("aria-selected", true);
    stopAt($(id), span);
  }
  $("maps").style.setProperty("--at", token);
  showChosen();
  showNext();
  showStream();
  showAttention();
  showLens();
  for (const id of ["text", "looked"]) reveal($(id), $(id).children[token]);
}

// Scrolls a box, and not the page, until a token in it can be seen; not under the mouse.
function reveal(box, span) {
  if (box.scrollHeight <= box.clientHeight || box.matches(":hover")) return;
  const [all, part] = [box, span].map(element => element.getBoundingClientRect());
  if (part.top < all.top || part.bottom > all.bottom)
    box.scrollTop += part.top - all.top - box.clientHeight / 2;
}

function show(explanation) {
  const same = data && data.ids.join() === explanation.ids.join();
  data = explanation;
  patterns = data.patterns.map(row => row.map(text =>
    Uint8Array.from(atob(text), c => c.charCodeAt(0))));
  [layer, head] = [Math.min(layer, data.n_layer - 1), Math.min(head, data.n_head - 1)];
  const T = data.tokens.length, nats = -meanOf(data.logprobs.slice(1));
  $("summary").textContent = [counted(T, "token"),
    `${counted(data.n_layer, "block")} of ${counted(data.n_head, "head")}`,
    `${data.n_embd} channels`, `${data.vocab_size.toLocaleString("en")} tokens in the vocabulary`,
  ].join(", ") + (T > 1
    ? `; mean loss ${nats.toFixed(3)} nats (${(nats / Math.LN2).toFixed(2)} bits) a token` : "")
    + (data.note ? `. ${data.note[0].toUpperCase()}${data.note.slice(1)}.` : "");
  measureChart();
  drawText();
  drawMaps();
  drawHeads();
  drawMost();
  drawEnlarged();
  drawKinds();
  held = same && held;
  choose(same ? token : T - 2);  // the last token has no follower yet
}

function hold(t) {
  held = !(held && t === token);
  choose(t);
}

function listen() {
  const pointed = event => {
    const span = event.target.closest?.(".token");
    return span ? +span.dataset.t : undefined;
  };
  for (const [id, find, moves] of [["text", pointed, "pointerover"],
    ["looked", pointed, "pointerover"], ["maps", mappedToken, "pointermove"],
    ["enlarged", enlargedToken, "pointermove"]]) {
    $(id).addEventListener("click", event => {
      const t = find(event);
      if (t !== undefined) hold(t);
    });
    $(id).addEventListener(moves, event => {
      const t = find(event);
      if (event.pointerType === "mouse" && t !== undefined && !held && t !== token) choose(t);
    });
    roving($(id), ".token", undefined, span => choose(+span.dataset.t));
  }
  document.addEventListener("keydown", event => {
    if (event.key !== "Escape" || !held) return;
    held = false;
    showChosen();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (!data) return;
    drawMaps();
    drawHeads();
    drawEnlarged();
    drawKinds();
    showAttention();
  });
  addEventListener("resize", () => {
    if (!data) return;
    measureChart();
    showStream();
  });
  listenToAttention();
  listenToKinds();
}

listen();
const embedded = $("data").textContent;
if (embedded.trim()) show(JSON.parse(embedded));
