// The traffic of the last minutes as three small plots.

import { $, bytes, count, delay, el, set, setText, svg } from "./dom.js";

const [SPAN, WIDTH, HEIGHT] = [5 * 60 * 1000, 300, 40];
const EVERY = 1900; // from one sample to the next, milliseconds
const PLOTS = [
  { name: "Messages", unit: (n) => `${count(n < 9.95 ? Math.round(n * 10) / 10 : Math.round(n))}/s`, keys: ["messagesIn", "messagesOut"] },
  { name: "Bytes", unit: (n) => `${bytes(n)}/s`, keys: ["bytesIn", "bytesOut"] },
  { name: "Round trip", unit: (n) => delay(n), keys: ["delay"] },
];

let samples = [];
let before = null; // the counters at the last sample
const drawn = [];

export function forgetRates() {
  before = null;
}

// Add a sample of the peers' counters, and draw; called each second.
export function showRates(peers) {
  if (!drawn.length) PLOTS.forEach(build);
  const now = Date.now();
  const counters = new Map(peers.filter((p) => p.state === "connected").map((p) => [`${p.key} ${p.direction}`, p]));
  if (before && now - before.at < EVERY) return;
  if (before) samples.push(sample(counters, now));
  before = { at: now, counters };
  samples = samples.filter((entry) => entry.at > now - SPAN);
  PLOTS.forEach((plot, index) => draw(plot, drawn[index], now));
}

function sample(counters, now) {
  const seconds = (now - before.at) / 1000;
  const entry = { at: now, gap: seconds > 15, messagesIn: 0, messagesOut: 0, bytesIn: 0, bytesOut: 0, delay: null };
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
  picture.append(svg("path", { class: "base", d: `M0,${HEIGHT - 0.5}H${WIDTH}` }), ...lines);
  const figures = plot.keys.map((_, index) => {
    const value = el("b", { text: "\u2013" });
    const word = plot.keys.length > 1 ? (index ? "out " : "in ") : "";
    return { value, item: el("span", { class: index ? "second" : "first" }, word, value) };
  });
  const top = el("span", { class: "top" });
  const head = el("p", {}, el("span", { class: "name", text: plot.name }), ...figures.map((f) => f.item), top);
  $("rates").append(el("div", { class: "plot" }, head, picture));
  drawn.push({ lines, picture, top, figures });
}

function draw({ name, unit, keys }, { lines, picture, top, figures }, now) {
  const most = Math.max(0, ...samples.flatMap((entry) => keys.map((key) => entry[key] ?? 0)));
  const last = samples.at(-1);
  keys.forEach((key, index) => {
    set(lines[index], "d", path(key, most || 1, now));
    setText(figures[index].value, last && last[key] !== null ? unit(last[key]) : "\u2013");
  });
  setText(top, most ? `peak ${unit(most)}` : "");
  const words = figures.map((figure) => figure.item.textContent).join(", ");
  set(picture, "aria-label", `${name}: ${words}${most ? `, peak ${unit(most)}` : ""}`);
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
    const x = WIDTH * (1 - (now - entry.at) / SPAN);
    d += `${pen}${x.toFixed(1)},${(HEIGHT - 2 - (HEIGHT - 5) * (entry[key] / most)).toFixed(1)}`;
    pen = "L";
  }
  return d;
}
