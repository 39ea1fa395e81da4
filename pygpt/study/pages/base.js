"use strict";
// Small tools that every part of the page uses.
const $ = id => document.getElementById(id);

const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// A number and its unit stay on one line.
const percent = p => `${
  p >= 0.0995 ? (100 * p).toFixed(0)
    : p >= 0.00095 ? (100 * p).toFixed(1)
      : p >= 9.5e-7 ? +(100 * p).toPrecision(1) : "< 0.0001"}\u00a0%`;
const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const short = number => String(+number.toPrecision(3));
const bitsOf = logprob => -logprob / Math.LN2;
const meanOf = numbers => numbers.reduce((sum, x) => sum + x, 0) / numbers.length;

// A short text in which spaces and signs without a shape can be seen.
const visible = text => text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥")
  .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, c => `\\u${c.codePointAt(0).toString(16)}`);
const codeOf = text => made("code", { textContent: visible(text) });

// A long text: it keeps its line breaks, and CSS shows a mark before each of them, before each tab,
// and in the place of other signs that have no shape. What is copied is the text alone.
const SIGNS = /([\n\t]|[\p{Cc}\p{Zl}\p{Zp}])/u;
const marked = text => text.split(SIGNS).filter(part => part).map(part => {
  if (!SIGNS.test(part)) return part;
  const sign = made("span", { className: "sign", textContent: part });
  sign.dataset.sign = visible(part);
  sign.classList.toggle("alone", part !== "\n" && part !== "\t");
  return sign;
});

// A token in a text, which can be chosen.
function tokenOf(text, title = "") {
  const token = made("span", { className: "token", title, tabIndex: -1 }, ...marked(text));
  token.setAttribute("role", "option");
  if (!text.trim()) token.setAttribute("aria-label", visible(text));
  return token;
}

const tint = (color, share) =>
  `color-mix(in srgb, var(${color}) ${Math.round(100 * share)}%, transparent)`;
const surprise = bits => tint("--heat", 0.72 * Math.min(bits / 10, 1));

// The red, green and blue of a colour of style.css.
const rgbOf = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
  .match(/[0-9a-f]{2}/gi).map(digits => parseInt(digits, 16));

// A canvas of one colour; alphas holds its opacity at each pixel, row by row.
function painted(width, height, [red, green, blue], alphas) {
  const canvas = made("canvas", { width, height });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const { data } = image;
  for (let i = 0, at = 0; i < alphas.length; i++) {
    data[at++] = red;
    data[at++] = green;
    data[at++] = blue;
    data[at++] = alphas[i];
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Makes the controls in a box one stop of the Tab key; the arrow keys move between them.
// columns() says how many stand in a row, and moved(control) hears where a key has moved to.
function roving(box, selector, columns = () => 1, moved = () => {}) {
  box.addEventListener("focusin", event =>
    event.target.matches(selector) && stopAt(box, event.target));
  box.addEventListener("keydown", event => {
    const all = [...box.querySelectorAll(selector)], at = all.indexOf(event.target);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(),
      Home: -at, End: all.length - 1 - at };
    if (at < 0 || !(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const next = all[at + steps[event.key]];
    if (!next) return;
    next.focus();
    moved(next);
  });
}

function stopAt(box, control) {
  for (const other of box.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  control.tabIndex = 0;
}
