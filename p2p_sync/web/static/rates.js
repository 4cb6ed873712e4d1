// The traffic of the last minutes as three small plots. It outlives a reload of the page.

import { $, bytes, count, delay, el, moment, set, setText, svg } from "./dom.js";

const [SPAN, WIDTH, HEIGHT] = [5 * 60 * 1000, 300, 40];
const EVERY = 1900; // from one sample to the next, milliseconds
const KEPT = "p2p_sync.rates";
const PLOTS = [
  { name: "Messages", unit: (n) => `${count(n < 9.95 ? Math.round(n * 10) / 10 : Math.round(n))}/s`, keys: ["messagesIn", "messagesOut"] },
  { name: "Bytes", unit: (n) => `${bytes(n)}/s`, keys: ["bytesIn", "bytesOut"] },
  { name: "Round trip", unit: (n) => delay(n), keys: ["delay"] },
];

let samples = [];
let before = null; // the counters at the last sample
let pointed = null; // the time that the pointer or the keyboard is at; null: the newest
const drawn = [];

export function startRates() {
  PLOTS.forEach(build);
  samples = remembered();
  addEventListener("pagehide", remember);
  const box = $("rates");
  box.addEventListener("pointermove", ({ clientX }) => {
    const { left, width } = drawn[0].picture.getBoundingClientRect();
    point(Date.now() - SPAN * (1 - (clientX - left) / width));
  });
  box.addEventListener("pointerleave", () => point(null));
  box.addEventListener("blur", () => point(null));
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !samples.length) return;
    event.preventDefault();
    const at = samples.indexOf(shown()) + step;
    point(samples[Math.min(samples.length - 1, Math.max(0, at))].at);
  });
  redraw();
}

export function forgetRates() {
  before = null;
}

// A browser without storage throws.
function remember() {
  try { sessionStorage.setItem(KEPT, JSON.stringify(samples)); } catch { /* they are gone, then */ }
}

function remembered() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT)) ?? [];
    return kept.filter((entry) => entry.at > Date.now() - SPAN && entry.at < Date.now());
  } catch { return []; }
}

// Add a sample of the peers' counters, and draw; called each second.
export function showRates(peers) {
  const now = Date.now();
  const counters = new Map(peers.filter((p) => p.state === "connected").map((p) => [`${p.key} ${p.direction}`, p]));
  if (before && now - before.at < EVERY) return;
  if (before) samples.push(sample(counters, now));
  before = { at: now, counters };
  samples = samples.filter((entry) => entry.at > now - SPAN);
  redraw();
}

function sample(counters, now) {
  const seconds = (now - before.at) / 1000;
  const gap = now - (samples.at(-1)?.at ?? 0) > 15000;
  const entry = { at: now, gap, messagesIn: 0, messagesOut: 0, bytesIn: 0, bytesOut: 0, delay: null };
  for (const [key, peer] of counters) {
    const old = before.counters.get(key);
    // The counters of a new link start at zero.
    const grown = (what, unit) => {
      const [value, least] = [peer[what][unit], old ? old[what][unit] : 0];
      return (value >= least ? value - least : value) / seconds;
    };
    entry.messagesIn += grown("received", "messages");
    entry.messagesOut += grown("sent", "messages");
    entry.bytesIn += grown("received", "bytes");
    entry.bytesOut += grown("sent", "bytes");
  }
  const delays = [...counters.values()].map((peer) => peer.rtt_ms).filter((ms) => ms !== null);
  delays.sort((a, b) => a - b);
  if (delays.length) entry.delay = delays[Math.floor(delays.length / 2)];
  return entry;
}

function build(plot) {
  const lines = plot.keys.map((_, index) => svg("path", { class: index ? "second" : "first" }));
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const cursor = svg("path", { class: "cursor" });
  picture.append(svg("path", { class: "base", d: `M0,${HEIGHT - 0.5}H${WIDTH}M0,0.5H${WIDTH}` }), ...lines, cursor);
  const figures = plot.keys.map((_, index) => {
    const value = el("b", { text: "\u2013" });
    const word = plot.keys.length > 1 ? (index ? "out " : "in ") : "";
    return { value, item: el("span", { class: index ? "second" : "first" }, word, value) };
  });
  const top = el("span", { class: "top" });
  const head = el("p", {}, el("span", { class: "name", text: plot.name }), ...figures.map((f) => f.item));
  $("rates").append(el("div", { class: "plot" }, head, el("div", { class: "field" }, picture, top)));
  drawn.push({ lines, picture, cursor, top, figures });
}

function point(time) {
  pointed = time;
  redraw();
}

// The sample at the time that is pointed at, or the newest.
function shown() {
  if (pointed === null) return samples.at(-1);
  const away = (entry) => Math.abs(entry.at - pointed);
  return samples.reduce((best, entry) => (!best || away(entry) < away(best) ? entry : best), undefined);
}

function redraw() {
  const now = Date.now();
  const entry = shown();
  PLOTS.forEach((plot, index) => draw(plot, drawn[index], now, entry));
  setText($("rates-time"), pointed === null || !entry ? "now" : moment(entry.at).text);
}

const across = (time, now) => (WIDTH * (1 - (now - time) / SPAN)).toFixed(1);

function draw({ name, unit, keys }, { lines, picture, cursor, top, figures }, now, entry) {
  const most = rounded(Math.max(0, ...samples.flatMap((each) => keys.map((key) => each[key] ?? 0))));
  keys.forEach((key, index) => {
    set(lines[index], "d", path(key, most || 1, now));
    setText(figures[index].value, entry && entry[key] !== null ? unit(entry[key]) : "\u2013");
  });
  set(cursor, "d", pointed === null || !entry ? "" : `M${across(entry.at, now)},0V${HEIGHT}`);
  setText(top, most ? unit(most) : "");
  const words = figures.map((figure) => figure.item.textContent).join(", ");
  set(picture, "aria-label", `${name}: ${words}${most ? `, the scale ends at ${unit(most)}` : ""}`);
}

// The end of a scale: 1, 2 or 5 with zeros.
function rounded(most) {
  if (!most) return 0;
  const unit = 10 ** Math.floor(Math.log10(most));
  return unit * [1, 2, 5, 10].find((n) => n * unit >= most * 0.999);
}

// A line through the samples, with gaps where the tab was hidden or no peer was connected.
function path(key, most, now) {
  let pen = "M";
  let d = "";
  for (const entry of samples) {
    if (entry[key] === null || entry.gap) {
      pen = "M";
      if (entry[key] === null) continue;
    }
    d += `${pen}${across(entry.at, now)},${(HEIGHT - 1 - (HEIGHT - 3) * (entry[key] / most)).toFixed(1)}`;
    pen = "L";
  }
  return d;
}
