// The live part of the page: it asks the server of pygpt play. Answers that come late, after a newer
// question, are dropped.
const settings = ["temperature", "top_k", "top_p"], off = new Set();
let halt = null, asked = 0, timer = 0, drawnAsked = 0;

const heads = () => [...off].map(name => name.split(",").map(Number));
const numbers = () => Object.fromEntries(settings.map(name => [name, +$(name).value]));
const say = text => { $("state").textContent = text; };

async function ask(name, request, signal) {
  const answer = await fetch(name, { method: "POST", signal,
    headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

async function explainNow() {
  const number = ++asked;
  try {
    const found = await (await ask("explain", { text: $("prompt").value, off: heads() })).json();
    if (number === asked) show(found);
  } catch (error) { say(error.message); }
  await drawnNow();
}

async function drawnNow() {
  for (const name of settings) $(`${name}-value`).textContent = $(name).value === "0" && name === "top_k" ? "all" : $(name).value;
  const number = ++drawnAsked;
  try {
    const found = await (await ask("candidates", { text: $("prompt").value, off: heads(), ...numbers() })).json();
    if (number !== drawnAsked) return;
    const model = new Map(found.model);
    $("drawn-note").textContent = `${found.count} ${found.count === 1 ? "token" : "tokens"} can be drawn`;
    $("drawn").replaceChildren(...found.drawn.flatMap(([text, p]) => {
      const bar = made("div", { className: "bar" });
      bar.style.width = `${100 * p}%`;
      return [made("code", { textContent: visible(text) }), bar,
        made("span", { textContent: percent(p), title: model.has(text) ? `the model alone: ${percent(model.get(text))}` : "" })];
    }));
  } catch (error) { say(error.message); }
}

async function write() {
  const seed = $("seed").value, before = $("prompt").value;
  const request = { text: before, off: heads(), ...numbers(), max_new_tokens: +$("max_new_tokens").value };
  if (seed !== "") request.seed = +seed;
  halt = new AbortController();
  $("go").disabled = true;
  $("halt").disabled = false;
  $("written").hidden = false;
  $("written").replaceChildren(made("span", { className: "soft", textContent: before }));
  say("writing");
  let choices = [], count = 0, wrote = "";
  const take = line => {
    if (line.error) throw new Error(line.error);
    if (line.best) choices.push(line);
    if (!line.text) return [];
    const button = made("button", { type: "button", className: "token", textContent: line.text });
    button.choices = choices;
    button.style.background = surprise(Math.max(0, ...choices.map(choice => -Math.log2(choice.p))));
    count += choices.length;
    wrote += line.text;
    choices = [];
    return [button];
  };
  try {
    const answer = await ask("write", request, halt.signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      $("written").append(...lines.flatMap(line => take(JSON.parse(line))));
      $("written").scrollTop = $("written").scrollHeight;
      say(`${count} tokens`);
    }
    say(`${count} tokens written`);
  } catch (error) { say(error.name === "AbortError" ? `stopped after ${count} tokens` : error.message); }
  halt = null;
  $("go").disabled = false;
  $("halt").disabled = true;
  if (count) {
    $("prompt").value = before + wrote;
    await explainNow();
    say(`${count} tokens written`);
  }
}

function showInstead(event) {
  const choices = event.target.choices;
  if (!choices) return;
  $("instead").replaceChildren(...choices.flatMap(choice => ["Instead of ",
    made("code", { textContent: visible(event.target.textContent) }), ` (${percent(choice.p)}) might have come: `,
    ...choice.best.slice(0, 8).flatMap(([text, p]) =>
      [made("code", { textContent: visible(text) }), ` ${percent(p)}  `])]));
}

function drawSwitches() {
  const { n_layer, n_head } = data;
  $("switches").style.gridTemplateColumns = `max-content repeat(${n_head}, max-content)`;
  const cells = [];
  for (let l = 0; l < n_layer; l++) {
    cells.push(made("span", { className: "soft", textContent: `block ${l}` }));
    for (let h = 0; h < n_head; h++) {
      const box = made("input", { type: "checkbox", checked: !off.has(`${l},${h}`) });
      box.setAttribute("aria-label", `block ${l}, head ${h}`);
      box.dataset.head = `${l},${h}`;
      cells.push(box);
    }
  }
  $("switches").replaceChildren(...cells);
}

function switched() {
  off.clear();
  for (const box of $("switches").querySelectorAll("input")) if (!box.checked) off.add(box.dataset.head);
  explainNow();
}

$("form").addEventListener("submit", event => { event.preventDefault(); if (!halt) write(); });
$("halt").addEventListener("click", () => halt?.abort());
$("written").addEventListener("pointerover", showInstead);
$("written").addEventListener("focusin", showInstead);
$("prompt").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(explainNow, 400); });
for (const name of settings) $(name).addEventListener("input", drawnNow);
$("switches").addEventListener("change", switched);
for (const [id, on] of [["all-on", true], ["all-off", false]])
  $(id).addEventListener("click", () => {
    for (const box of $("switches").querySelectorAll("input")) box.checked = on;
    switched();
  });
$("prompt").value = JSON.parse($("start").textContent);
explainNow().then(() => data && drawSwitches());
