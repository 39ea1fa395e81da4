// The picture of the chosen head, with a pixel for each weight and, of a short text, its tokens.
const LABELLED = 24;  // tokens, at most

function drawEnlarged() {
  const { tokens } = data, names = tokens.length > LABELLED ? [] : tokens.map(visible);
  const labels = () => names.map(textContent => made("span", { textContent }));
  const square = made("div", { className: "square" },
    pictureOf(patterns[layer][head], rgbOf("--look"), tokens.length));
  const across = made("div", { className: "across" }, ...labels());
  across.classList.toggle("upright", names.every(name => name.length === 1));
  $("enlarged").style.setProperty("--count", tokens.length);
  $("enlarged").replaceChildren(across, made("div", { className: "down" }, ...labels()), square);
}

// Marks the row of the chosen token, and says in words what the picture shows.
function showEnlarged() {
  const { tokens } = data, pattern = patterns[layer][head], name = `Block ${layer}, head ${head}`;
  const row = Array.from({ length: token + 1 }, (_, j) => weight(pattern, token, j));
  const most = row.indexOf(Math.max(...row));
  const [own, previous, first] = meansOf(pattern).map(wholePercent);
  $("enlarged-name").textContent = name;
  $("enlarged").style.setProperty("--at", token);
  const means = tokens.length === 1 ? "" : `: on average ${own} on the token itself, ${
    previous} on the one before, ${first} on the first`;
  $("enlarged").setAttribute("aria-label", `${name}${means}. Token ${token}, ${
    visible(tokens[token])}, looks most at token ${most}, ${visible(tokens[most])}: ${
    percent(row[most])}.`);
}

// The row of the enlarged picture at which the mouse points, or undefined.
function enlargedToken(event) {
  const square = event.target.closest?.(".square");
  if (!square) return undefined;
  const { left, top, width, height } = square.getBoundingClientRect(), T = data.tokens.length;
  const [j, t] = [(event.clientX - left) / width, (event.clientY - top) / height]
    .map(share => Math.max(0, Math.min(T - 1, Math.floor(share * T))));
  const nameOf = place => `token ${place} ${visible(data.tokens[place])}`;
  square.title = j > t ? `${nameOf(t)} cannot see ${nameOf(j)}, which comes later`
    : `${nameOf(t)} looks at ${nameOf(j)}: ${percent(weight(patterns[layer][head], t, j))}`;
  return t;
}
