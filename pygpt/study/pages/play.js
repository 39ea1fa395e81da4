// The live part of the page: it asks the server of pygpt play.
const settings = ["temperature", "top_k", "top_p"], off = new Set();
const GONE = "The server has ended. Start pygpt play again and open its new address.";
let halt = null, timer = 0, whole = null;

const heads = () => [...off].map(name => name.split(",").map(Number));
const numbers = () => Object.fromEntries(settings.map(name => [name, +$(name).value]));
const say = text => { $("state").textContent = text; };

function complain(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// Runs one call of work at a time; if it is asked for meanwhile, it runs once more.
function latest(work) {
  let again = false, current = null;
  return () => {
    again = true;
    current ??= (async () => {
      while (again) {
        again = false;
        await work();
      }
      current = null;
    })();
    return current;
  };
}

async function ask(name, request, signal) {
  let answer;
  try {
    answer = await fetch(name, { method: "POST", signal,
      headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(GONE);
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  throw new Error(found.error ?? `The server answered ${answer.status}.`);
}

const explainNow = latest(async () => {
  try {
    const request = { text: $("prompt").value, off: heads() };
    const found = await (await ask("explain", request)).json();
    complain("");
    show({ ...found, off: request.off.map(String) });
    if (!$("switches").firstChild) drawSwitches();
    showBroken(request.off);
  } catch (error) {
    complain(error.message);
    return;
  }
  await drawnNow();
});

const drawnNow = latest(async () => {
  for (const name of settings) $(`${name}-value`).textContent = $(name).value;
  if (+$("top_k").value === 0) $("top_k-value").textContent = "all";
  try {
    const request = { text: $("prompt").value, off: heads(), ...numbers() };
    const found = await (await ask("candidates", request)).json();
    const model = new Map(found.model);
    complain("");
    $("drawn-note").textContent = `${counted(found.count, "token")} can be drawn`;
    $("drawn").replaceChildren(...found.drawn.flatMap(([text, p]) => barOf(text, p, false,
      model.has(text) ? `the model alone: ${percent(model.get(text))}` : "")));
  } catch (error) {
    complain(error.message);
  }
});

// Says what switching heads off did to the loss of the text, and to which tokens most.
function showBroken(switched) {
  if (!switched.length) {
    whole = { ids: data.ids.join(), logprobs: data.logprobs };
    $("broken").textContent = data.ids.length > 1
      ? `Loss of the text with every head: ${data.loss.toFixed(3)} nats a token.` : "";
    return;
  }
  if (data.ids.length < 2) return;
  const more = data.loss - data.loss_all_on;
  $("broken").replaceChildren(`Loss of the text: ${data.loss_all_on.toFixed(3)} nats a token with `
    + `every head, ${data.loss.toFixed(3)} with ${counted(switched.length, "head")} off (${
      more < 0 ? "" : "+"}${more.toFixed(3)}).`);
  if (whole?.ids !== data.ids.join()) return;
  const worse = data.logprobs
    .map((logprob, t) => ({ t, bits: bitsOf(logprob - whole.logprobs[t]) }))
    .filter(({ bits }) => bits > 0.05).sort((a, b) => b.bits - a.bits).slice(0, 5);
  if (worse.length) $("broken").append(" It hurts most: ", ...worse.flatMap(({ t, bits }) =>
    [codeOf(data.tokens[t]), ` +${bits.toFixed(1)} bits (token ${t})  `]));
}

// Reads lines of JSON as they come, and hands each to take.
async function readLines(answer, take) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.forEach(line => take(JSON.parse(line)));
    $("written").scrollTop = $("written").scrollHeight;
  }
}

// Shows a text as it is written; returns {count, text, problem}.
async function stream(request, signal) {
  const wrote = { count: 0, text: "", problem: "" };
  let choices = [], stop = null;
  const take = line => {
    if (line.error) throw new Error(line.error);
    stop = line.stop ?? stop;
    if (line.best) choices.push(line);
    if (!line.text) return;
    const bits = Math.max(0, ...choices.map(choice => -Math.log2(choice.p)));
    const span = tokenOf(line.text, `${bits.toFixed(1)} bits`);
    span.style.backgroundColor = surprise(bits);
    span.choices = choices;
    if (!wrote.text) span.tabIndex = 0;
    $("written").append(span);
    wrote.count += choices.length;
    wrote.text += line.text;
    choices = [];
  };
  try {
    await readLines(await ask("write", request, signal), take);
    if (stop === null) wrote.problem = GONE;
  } catch (error) {
    if (error.name !== "AbortError")
      wrote.problem = error instanceof TypeError ? GONE : error.message;
  }
  return wrote;
}

async function write() {
  const before = $("prompt").value, seed = $("seed").value;
  const request = { text: before, off: heads(), ...numbers(),
    max_new_tokens: +$("max_new_tokens").value, ...seed === "" ? {} : { seed: +seed } };
  halt = new AbortController();
  $("go").disabled = $("prompt").readOnly = true;
  $("halt").disabled = $("written").hidden = false;
  $("written").replaceChildren(made("span", { className: "soft" }, ...marked(before)));
  $("instead").replaceChildren();
  complain("");
  say("writing");
  const { count, text, problem } = await stream(request, halt.signal);
  const said = `${halt.signal.aborted ? "stopped: " : ""}${counted(count, "token")} written`;
  halt = null;
  $("go").disabled = $("prompt").readOnly = false;
  $("halt").disabled = true;
  say(said);
  if (text) $("prompt").value = before + text;
  if (text && !problem) await explainNow();
  if (problem) complain(problem);
}

function showInstead(event) {
  const span = event.target.closest?.(".token");
  if (!span?.choices) return;
  $("instead").replaceChildren(...span.choices.flatMap(choice => ["Instead of ",
    codeOf(span.textContent), ` (${percent(choice.p)}) might have come: `,
    ...choice.best.filter(([text]) => text !== span.textContent).slice(0, 8)
      .flatMap(([text, p]) => [codeOf(text), ` ${percent(p)}  `])]));
}

function drawSwitches() {
  const { n_layer, n_head } = data, cells = [];
  $("switches").style.gridTemplateColumns = `max-content repeat(${n_head}, max-content)`;
  for (let l = 0; l < n_layer; l++) {
    const name = made("button", { type: "button", textContent: `block ${l}`,
      title: `switch all heads of block ${l}`, tabIndex: l ? -1 : 0 });
    name.dataset.block = l;
    cells.push(name);
    for (let h = 0; h < n_head; h++) {
      const box = made("input", { type: "checkbox", checked: true, tabIndex: -1,
        title: `block ${l}, head ${h}` });
      box.setAttribute("aria-label", `block ${l}, head ${h}`);
      box.dataset.head = `${l},${h}`;
      cells.push(box);
    }
  }
  $("switches").replaceChildren(...cells);
}

// Switches some heads, all on or all off, or each as it stands.
function switchHeads(boxes, on) {
  if (on !== undefined) for (const box of boxes) box.checked = on;
  off.clear();
  for (const box of $("switches").querySelectorAll("input:not(:checked)"))
    off.add(box.dataset.head);
  explainNow();
}

function listenLive() {
  $("form").addEventListener("submit", event => {
    event.preventDefault();
    if (!halt) write();
  });
  $("halt").addEventListener("click", () => halt?.abort());
  for (const kind of ["pointerover", "focusin", "click"])
    $("written").addEventListener(kind, showInstead);
  roving($("written"), ".token");
  $("prompt").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(explainNow, 400);
  });
  for (const name of settings) $(name).addEventListener("input", drawnNow);
  $("switches").addEventListener("change", () => switchHeads([]));
  $("switches").addEventListener("click", event => {
    const block = event.target.dataset.block;
    if (block === undefined) return;
    const boxes = [...$("switches").querySelectorAll(`[data-head^="${block},"]`)];
    switchHeads(boxes, !boxes.some(box => box.checked));
  });
  roving($("switches"), "button, input", () => data.n_head + 1);
  for (const [id, on] of [["all-on", true], ["all-off", false]])
    $(id).addEventListener("click", () => switchHeads($("switches").querySelectorAll("input"), on));
}

$("prompt").value = JSON.parse($("start").textContent);
listenLive();
explainNow();
