// What each head looks at on average: a table with a row for each head, which can be sorted.
const KINDS = ["itself", "previous", "first"];
let kindsBy = -1;  // the place in KINDS by which the table is sorted; -1: by block and head

// The mean weights of the tokens t >= 1 on t itself, on t - 1 and on token 0. For t = 1 the last
// two are the same weight.
function meansOf(pattern) {
  const T = data.tokens.length, sums = [0, 0, 0];
  for (let t = 1; t < T; t++)
    [t, t - 1, 0].forEach((j, kind) => { sums[kind] += weight(pattern, t, j); });
  return sums.map(sum => sum / (T - 1));  // NaN if there is one token
}

function kindOf(means) {
  const most = Math.max(...means);
  return most >= 0.5 ? KINDS[means.indexOf(most)] : "-";
}

const wholePercent = p => Number.isNaN(p) ? "-" : `${(100 * p).toFixed(0)}\u00a0%`;

function drawKinds() {
  $("kinds").replaceChildren(...patterns.flatMap((heads, l) => heads.map((pattern, h) => {
    const means = meansOf(pattern), off = data.off?.includes(`${l},${h}`) ? ", off" : "";
    const row = made("tr", { means, order: l * data.n_head + h },
      made("th", { scope: "row", textContent: `block ${l}, head ${h}${off}` }),
      ...means.map(mean => {
        const cell = made("td", { textContent: wholePercent(mean) });
        cell.style.backgroundColor = glowing(0.6 * (mean || 0));
        return cell;
      }),
      made("td", { textContent: kindOf(means) }));
    row.dataset.head = `${l},${h}`;
    return row;
  })));
  sortKinds(kindsBy);
}

// Puts the largest of a column first, or with -1 the rows in the order of the model.
function sortKinds(by) {
  kindsBy = by;
  $("kinds").append(...[...$("kinds").children].sort((a, b) =>
    (by < 0 ? 0 : b.means[by] - a.means[by]) || a.order - b.order));
  for (const button of $("kinds-by").querySelectorAll("button")) {
    const is = +button.dataset.by === by;
    if (is) button.parentNode.setAttribute("aria-sort", by < 0 ? "ascending" : "descending");
    else button.parentNode.removeAttribute("aria-sort");
  }
}

// Marks the row of the chosen head.
function showKind() {
  const row = $("kinds").querySelector(`[data-head="${layer},${head}"]`);
  if (row.hasAttribute("aria-current")) return;
  $("kinds").querySelector("[aria-current]")?.removeAttribute("aria-current");
  row.setAttribute("aria-current", true);
}

function listenToKinds() {
  $("kinds-by").addEventListener("click", event => {
    const { by } = event.target.dataset;
    if (by !== undefined) sortKinds(+by);
  });
}
