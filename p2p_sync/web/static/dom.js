// Makes elements and words. All that comes from outside goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

// An element; of `fields`, `on...` are listeners, `text` is its text, others are attributes.
const SVG = "http://www.w3.org/2000/svg";
export const el = (tag, fields = {}, ...children) => fill(document.createElement(tag), fields, children);
export const svg = (tag, fields = {}, ...children) => fill(document.createElementNS(SVG, tag), fields, children);

function fill(element, fields, children) {
  for (const [name, value] of Object.entries(fields)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Set only what has changed: screen readers and the layout are left alone otherwise.
export const setText = (element, text) => element.textContent === text || (element.textContent = text);
export const set = (element, name, value) => element.getAttribute(name) === `${value}` || element.setAttribute(name, value);

// Make `nodes` the children of `parent`; those that are in their place stay untouched.
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

const number = new Intl.NumberFormat("en");
export const count = (n) => number.format(n);
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 999.5 && unit < units.length - 1; unit++) n /= 1000;
  return `${unit && n < 9.95 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

export function delay(ms) {
  if (ms === null || ms === undefined) return "";
  return ms < 9.95 ? `${ms.toFixed(1)} ms` : `${count(Math.round(ms))} ms`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}

// A moment in the reader's own zone and habit; the day is left out today.
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const precise = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export function moment(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return { text: "invalid time", title: "" };
  const today = date.toDateString() === new Date().toDateString();
  return { text: (today ? clock : calendar).format(date), title: precise.format(date) };
}

export const host = (address) => address.replace(/^wss?:\/\//, "");
