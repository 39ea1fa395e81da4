// Attention: small pictures of all heads, the text coloured by one of them or by a mean, and what
// the chosen token looks at most in each head.
const PIXELS = 64;  // of a small picture, at most

// A pattern holds the rows of the triangle one after another, in 255ths.
const weight = (pattern, t, j) => pattern[t * (t + 1) / 2 + j] / 255;

// Every hover sets hundreds of these colours, so they are written in the form that is read fastest.
let glow = "0 0 0";
const glowing = share => `rgb(${glow} / ${share.toFixed(2)})`;

// Where a text is longer than the picture, a pixel shows the largest weight of its square.
function pictureOf(pattern, rgb, pixels) {
  const T = data.tokens.length, size = Math.min(T, pixels);
  const alphas = new Uint8ClampedArray(size * size);
  const place = Int32Array.from({ length: T }, (_, t) => Math.floor(t * size / T));
  for (let t = 0, i = 0; t < T; t++)
    for (let j = 0; j <= t; j++, i++) {
      const at = place[t] * size + place[j];
      if (pattern[i] > alphas[at]) alphas[at] = pattern[i];
    }
  return painted(size, size, rgb, alphas.map(alpha => Math.sqrt(255 * alpha)));
}

function drawHeads() {
  const H = data.n_head, rgb = rgbOf("--look"), cells = [made("span", { textContent: "head" })];
  glow = rgbOf("--glow").join(" ");
  $("heads").style.gridTemplateColumns =
    `max-content repeat(${H}, minmax(26px, ${H > 8 ? 40 : 72}px))`;
  for (let h = 0; h < H; h++) cells.push(made("span", { textContent: h }));
  patterns.forEach((row, l) => {
    cells.push(made("span", { textContent: `block ${l}` }));
    row.forEach((pattern, h) => {
      const button = made("button", { type: "button", title: `block ${l}, head ${h}` },
        pictureOf(pattern, rgb, PIXELS));
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", `block ${l}, head ${h}`);
      button.dataset.head = `${l},${h}`;
      cells.push(button);
    });
  });
  $("heads").replaceChildren(...cells);
}

// The table of all heads: made once for an explanation, filled for each token.
function drawMost() {
  const head = made("tr", {}, made("td"), ...patterns[0].map((_, h) =>
    made("th", { scope: "col", textContent: `head ${h}` })));
  $("most").style.width = `${5 + 6.5 * data.n_head}em`;
  $("most").replaceChildren(head, ...patterns.map((row, l) => made("tr", {},
    made("th", { scope: "row", textContent: `block ${l}` }), ...row.map((_, h) => {
      const cell = made("td", {}, made("span"), made("small"));
      cell.dataset.head = `${l},${h}`;
      return cell;
    }))));
}

function fillMost() {
  if (!$("all-heads").open) return;
  for (const cell of $("most").querySelectorAll("[data-head]")) {
    const [l, h] = cell.dataset.head.split(",");
    const start = token * (token + 1) / 2, row = patterns[l][h].subarray(start, start + token + 1);
    let most = 0;
    row.forEach((value, j) => { if (value > row[most]) most = j; });
    cell.firstChild.textContent = visible(data.tokens[most]);
    const place = most === token ? "itself" : `\u2212${token - most}`;
    cell.lastChild.textContent = `${place}, ${percent(row[most] / 255)}`;
    const where = most === token ? "itself" : `${counted(token - most, "token")} before`;
    cell.title = `token ${most}, ${where}`;
    cell.style.backgroundColor = glowing(0.6 * row[most] / 255);
  }
}

// What is shown: its name and the patterns whose mean it is.
function shownHeads() {
  const view = document.querySelector("input[name=view]:checked").value;
  if (view === "block")
    return [`On average over the ${counted(data.n_head, "head")} of block ${layer}, `,
      patterns[layer]];
  if (view === "all")
    return [`On average over all ${counted(data.n_layer * data.n_head, "head")}, `,
      patterns.flat()];
  return [`In block ${layer}, head ${head}, `, [patterns[layer][head]]];
}

function showAttention() {
  const chosen = `${layer},${head}`;
  for (const button of $("heads").querySelectorAll("button")) {
    const is = button.dataset.head === chosen;
    button.setAttribute("aria-checked", is);
    button.tabIndex = is ? 0 : -1;
  }
  const [name, list] = shownHeads();
  const weights = Array.from({ length: token + 1 }, (_, j) =>
    list.reduce((sum, pattern) => sum + weight(pattern, token, j), 0) / list.length);
  const most = weights.indexOf(Math.max(...weights)), share = percent(weights[most]);
  $("looks").replaceChildren(name, codeOf(data.tokens[token]), " looks most at ",
    codeOf(data.tokens[most]), most === token ? ` (itself, ${share}).`
      : ` (${counted(token - most, "token")} before, ${share}).`);
  [...$("looked").children].forEach((span, j) => {
    const seen = j <= token;
    span.style.backgroundColor = seen ? glowing(0.85 * Math.sqrt(weights[j])) : "";
    span.title = seen ? percent(weights[j]) : "later: it cannot be seen";
    span.classList.toggle("later", !seen);
  });
  fillMost();
  showEnlarged();
  showKind();
}

function chooseHead(name) {
  [layer, head] = name.split(",").map(Number);
  drawEnlarged();
  showAttention();
}

function listenToAttention() {
  roving($("heads"), "button", () => data.n_head, button => chooseHead(button.dataset.head));
  for (const id of ["heads", "most", "kinds"])
    $(id).addEventListener("click", event => {
      const chosen = event.target.closest("[data-head]");
      if (chosen) chooseHead(chosen.dataset.head);
    });
  $("view").addEventListener("change", showAttention);
  $("all-heads").addEventListener("toggle", () => data && fillMost());
}
