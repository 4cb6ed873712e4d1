// The mesh as a picture: this node in the middle, its peers around it.
//
// A peer keeps its place on a ring while the page is open. It gets the free place farthest from its
// neighbours; of several, the one nearest to the hash of its id.

import { $, arrange, delay, host, plural, set, setText, svg } from "./dom.js";
import { isPlain, nameOf as labelOf, short } from "./names.js";
import { isBehind } from "./verdict.js";

const RINGS = [[112, 16, 150], [190, 32, 222], [256, 64, 282]].map(([radius, places, view]) => ({ radius, places, view }));
const MOST = 100;
const NAMED = 16; // up to so many peers have their names beside them

const taken = RINGS.map(() => new Map()); // ring -> place -> name
const places = new Map(); // a peer's key or id -> its place
const drawn = new Map(); // place -> what was drawn for it
let chosen = null; // the place under the pointer or the keyboard
let layers = null;

export function showMesh(peers, self) {
  const picture = $("mesh");
  layers ??= build(picture);
  const known = peers.filter((peer) => (peer.id || peer.address) && peer.state !== "self").sort((a, b) => rank(a) - rank(b));
  const shown = known.slice(0, MOST);
  forget(shown);
  const at = new Map();
  for (const peer of [...shown].sort((a, b) => hash(nameOf(a)) - hash(nameOf(b)))) at.set(placeOf(peer), peer);
  const rings = Math.max(0, ...[...at.keys()].map((spot) => spot.ring));
  const { view } = RINGS[rings];
  const longest = Math.max(0, ...[...at.values()].map((peer) => shortName(peer, areAlike(shown)).length));
  const half = rings || !longest ? view : 140 + 6.2 * longest; // of its width: the names are beside the first ring
  set(picture, "viewBox", `${-half} ${-view} ${2 * half} ${2 * view}`);
  for (const [spot, parts] of drawn) {
    if (at.has(spot)) continue;
    parts.link.remove();
    drawn.delete(spot);
    if (chosen === spot) chosen = null;
  }
  for (const [spot, peer] of at) {
    if (!drawn.has(spot)) drawn.set(spot, drawPeer(spot));
    showPeer(drawn.get(spot), spot, peer, at.size <= NAMED, rings, areAlike(shown), at.size > 5);
  }
  set(layers.chords, "data-many", at.size > 12);
  const order = [...at.keys()].sort((a, b) => a.ring - b.ring || a.place - b.place);
  arrange(layers.nodes, order.map((spot) => drawn.get(spot).node));
  if (!order.some((spot) => drawn.get(spot).node.getAttribute("tabindex") === "0") && order.length) {
    set(drawn.get(order[0]).node, "tabindex", "0");
  }
  showChords(at);
  layers.summary = summary(shown, known.length, self);
  showNote();
}

const nameOf = (peer) => peer.id ?? peer.key;
const trouble = (peer) => peer.state === "refused" || (peer.state === "waiting" && peer.attempts > 0);
export const stateOf = (peer) => (trouble(peer) ? "failed" : peer.state);
export const rank = (peer) => ["connected", "dialling", "failed", "waiting"].indexOf(stateOf(peer));
// Of several peers on one host, show the ports only.
const areAlike = (peers) => peers.length > 3 && new Set(peers.map((p) => host(p.address ?? "").replace(/:\d+$/, ""))).size === 1;

// -- places -------------------------------------------------------------------------------------
function hash(text) {
  let value = 2166136261;
  for (const char of text) value = Math.imul(value ^ char.codePointAt(0), 16777619);
  return (value ^ (value >>> 15)) >>> 0;
}

// A peer may be known by its address first and by its id later: both name its place.
function placeOf(peer) {
  const spot = places.get(peer.key) ?? places.get(peer.id) ?? find(nameOf(peer));
  places.set(peer.key, spot);
  if (peer.id) places.set(peer.id, spot);
  return spot;
}

function find(name) {
  const ring = Math.max(0, RINGS.findIndex((r, index) => taken[index].size < r.places));
  const size = RINGS[ring].places;
  const away = (a, b) => Math.min((a - b + size) % size, (b - a + size) % size);
  const wish = hash(name) % size;
  let best = null;
  for (let spot = 0; spot < size; spot++) {
    if (taken[ring].has(spot)) continue;
    const room = Math.min(size, ...[...taken[ring].keys()].map((other) => away(spot, other)));
    const value = room * size - away(spot, wish);
    if (!best || value > best.value) best = { spot, value };
  }
  const { radius } = RINGS[ring];
  const angle = (2 * Math.PI * (best.spot + (ring % 2) / 2)) / size - Math.PI / 2;
  taken[ring].set(best.spot, name);
  return { ring, place: best.spot, x: radius * Math.cos(angle), y: radius * Math.sin(angle) };
}

// A peer that is gone keeps its place until no other is free.
function forget(peers) {
  const used = taken.reduce((sum, ring) => sum + ring.size, 0);
  const total = RINGS.reduce((sum, ring) => sum + ring.places, 0);
  if (used + peers.filter((p) => !places.has(p.key) && !places.has(p.id)).length <= total) return;
  const stay = new Set(peers.flatMap((p) => [places.get(p.key), places.get(p.id)]));
  for (const [name, spot] of places) {
    if (stay.has(spot)) continue;
    places.delete(name);
    taken[spot.ring].delete(spot.place);
  }
}

// -- drawing ------------------------------------------------------------------------------------
function build(picture) {
  const chords = svg("g", { class: "chords" });
  const links = svg("g");
  const nodes = svg("g");
  const words = [svg("text", { y: -1, text: "this" }), svg("text", { y: 11, text: "node" })];
  const centre = svg("g", { class: "self" }, svg("circle", { r: 27 }), ...words);
  picture.append(chords, links, centre, nodes);
  picture.addEventListener("keydown", walk);
  return { chords, links, nodes, summary: "", lines: new Map() };
}

function drawPeer(spot) {
  const line = svg("line", { x1: 0, y1: 0, x2: spot.x, y2: spot.y });
  const arrow = svg("path", { class: "arrow", d: "M-4,-5L4,0L-4,5" });
  const rtt = svg("text", { class: "rtt" });
  const link = svg("g", { class: "link" }, line, arrow, rtt);
  const disc = svg("circle", { r: 12 });
  const sign = svg("path", { class: "cross", d: "M-4,-4L4,4M4,-4L-4,4" });
  const label = svg("text", { class: "name" });
  const node = svg("g", { class: "node", role: "img", tabindex: "-1", transform: `translate(${spot.x.toFixed(1)} ${spot.y.toFixed(1)})` }, disc, sign, label);
  const choose = () => pick(spot);
  for (const name of ["pointerenter", "focus"]) node.addEventListener(name, choose);
  for (const name of ["pointerleave", "blur"]) node.addEventListener(name, () => pick(null));
  layers.links.append(link);
  return { link, line, arrow, rtt, node, disc, label, peer: null };
}

function showPeer(parts, spot, peer, named, rings, alike, crowded) {
  const state = stateOf(peer);
  parts.peer = peer;
  set(parts.link, "data-state", state);
  set(parts.link, "data-behind", isBehind(peer));
  set(parts.node, "data-state", state);
  set(parts.node, "aria-label", describe(peer));
  set(parts.disc, "r", [13, 11, 10][rings]);
  // The arrow points from the node that opened the connection.
  const turn = (Math.atan2(spot.y, spot.x) * 180) / Math.PI + (peer.direction === "in" ? 180 : 0);
  set(parts.arrow, "transform", `translate(${spot.x * 0.8} ${spot.y * 0.8}) rotate(${turn})`);
  const [x, y] = [spot.x, spot.y].map((at) => at * (!crowded ? 0.5 : spot.place % 2 ? 0.6 : 0.42)); // so that neighbours do not overlap
  set(parts.rtt, "transform", `translate(${x} ${y + 3.5})`);
  setText(parts.rtt, named && peer.rtt_ms !== null ? delay(peer.rtt_ms) : "");
  setText(parts.label, named ? shortName(peer, alike) : "");
  const side = Math.abs(spot.x) < 20 ? 0 : Math.sign(spot.x);
  set(parts.label, "x", 19 * side);
  set(parts.label, "y", side ? 4 : spot.y < 0 ? -19 : 27);
  set(parts.label, "text-anchor", ["end", "middle", "start"][side + 1]);
}

// Of nodes with one name on one host, show the ports.
function shortName(peer, alike) {
  if (peer.name && peer.id && (isPlain(peer.id) || !alike)) return labelOf(peer.id, 12);
  const name = peer.address ? host(peer.address) : short(peer.id);
  const port = /:\d+$/.exec(name);
  const text = alike && port ? port[0] : name;
  return text.length > 22 ? `${text.slice(0, 21)}\u2026` : text;
}

export function describe(peer) {
  const id = peer.id ? ` (${short(peer.id)})` : "";
  const words = peer.name ? [peer.name + id] : [];
  words.push(peer.address ? host(peer.address) : "unknown address");
  if (peer.id && !peer.name) words.push(`node ${short(peer.id)}`);
  words.push(stateOf(peer) === "failed" && peer.state === "waiting" ? "unreachable" : peer.state);
  if (peer.direction) words.push(peer.direction === "out" ? "outgoing" : "incoming");
  if (peer.rtt_ms !== null) words.push(delay(peer.rtt_ms));
  if (isBehind(peer)) words.push(`behind by ${plural(peer.late, "message")}`);
  if (peer.last_error && peer.state !== "connected") words.push(peer.last_error);
  return words.join(", ");
}

// Links among the peers, as far as they are known.
function showChords(at) {
  const byId = new Map([...at].filter(([, peer]) => peer.id).map(([spot, peer]) => [peer.id, spot]));
  const wanted = new Map();
  for (const [spot, peer] of at) {
    if (peer.state !== "connected") continue;
    for (const id of Object.keys(peer.links ?? {})) {
      const other = byId.get(id);
      if (!other || other === spot) continue;
      const ends = [spot, other].sort((a, b) => a.x - b.x || a.y - b.y);
      wanted.set(ends.map((end) => `${end.ring}.${end.place}`).join(" "), ends);
    }
  }
  for (const [key, line] of layers.lines) {
    if (wanted.has(key)) continue;
    line.remove();
    layers.lines.delete(key);
  }
  for (const [key, [a, b]] of wanted) {
    if (layers.lines.has(key)) continue;
    // Bent towards the middle, so that it passes the peers in between.
    const d = `M${a.x.toFixed(1)},${a.y.toFixed(1)}Q${((a.x + b.x) * 0.3).toFixed(1)},${((a.y + b.y) * 0.3).toFixed(1)} ${b.x.toFixed(1)},${b.y.toFixed(1)}`;
    const line = svg("path", { d });
    line.ends = [a, b];
    layers.lines.set(key, line);
    layers.chords.append(line);
  }
}

// -- naming -------------------------------------------------------------------------------------
function pick(spot) {
  chosen = spot;
  for (const [other, parts] of drawn) {
    parts.node.classList.toggle("chosen", other === spot);
    parts.link.classList.toggle("chosen", other === spot);
  }
  for (const line of layers.lines.values()) line.classList.toggle("chosen", line.ends.includes(spot));
  showNote();
}

function showNote() {
  const parts = chosen && drawn.get(chosen);
  setText($("mesh-note"), parts ? describe(parts.peer) : layers.summary);
}

function summary(shown, known, self) {
  const linked = shown.filter((peer) => peer.state === "connected").length;
  const more = known > shown.length ? ` ${known - shown.length} more are in the list.` : "";
  const name = `This node (${self.name}, ${host(self.address)})`;
  if (!known) return `${name} has no peers yet.`;
  return `${name} and ${plural(known, "peer")}, ${linked} connected. Arrows point from the node that opened the connection.${more}`;
}

// The arrow keys move from peer to peer; the tab key reaches one of them.
function walk(event) {
  const nodes = [...layers.nodes.children];
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const from = nodes.indexOf(document.activeElement);
  if (!(event.key in steps) || from < 0) return;
  event.preventDefault();
  const next = nodes[(from + steps[event.key] + nodes.length) % nodes.length];
  for (const node of nodes) set(node, "tabindex", node === next ? "0" : "-1");
  next.focus();
}
