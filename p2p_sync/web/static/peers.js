// The table of peers with a few buttons for each, and the form that adds one.

import { Problem, call } from "./api.js";
import { $, arrange, bytes, count, delay, duration, el, host, moment, plural, set, setText } from "./dom.js";
import { stateOf } from "./mesh.js";
import { short } from "./names.js";
import { isBehind } from "./verdict.js";

const MOST = 100; // rows in the page
const STALE = 300; // after an address was added, a list on its way may be older; milliseconds
const path = (key) => `/api/v1/peers/${encodeURIComponent(key)}`;
const rows = new Map(); // key -> row
const order = []; // keys in the order they were first seen, so that rows do not jump about
let all = false; // show unused addresses, too
let latest = [];

export function startPeers() {
  $("all-peers").addEventListener("click", () => {
    all = !all;
    showPeers(latest);
  });
  $("add").addEventListener("submit", (event) => {
    event.preventDefault();
    add($("address-in").value);
  });
}

export function showPeers(peers) {
  latest = peers;
  const needed = (peer) => peer.state !== "waiting" || peer.by_hand || peer.attempts > 0;
  const known = new Map(peers.map((peer) => [peer.key, peer]));
  for (const peer of peers) if (!order.includes(peer.key)) order.push(peer.key);
  for (let i = order.length - 1; i >= 0; i--) if (!known.has(order[i])) order.splice(i, 1);
  const list = order.map((key) => known.get(key)).filter((peer) => all || needed(peer)).slice(0, MOST);
  for (const key of rows.keys()) if (!known.has(key)) rows.delete(key);
  for (const peer of list) {
    if (!rows.has(peer.key)) rows.set(peer.key, build(peer.key));
    show(rows.get(peer.key), peer);
  }
  arrange($("peer-rows"), list.map((peer) => rows.get(peer.key).element));
  const idle = peers.filter((peer) => !needed(peer)).length;
  $("all-peers").hidden = !idle;
  setText($("all-peers"), all ? "Hide unused" : `Show ${count(idle)} unused ${idle === 1 ? "address" : "addresses"}`);
  $("no-peers").hidden = list.length > 0;
  setText($("no-peers"), idle && !all ? "No peers in use" : "No peers yet");
  follow(peers);
  countDown();
}

function build(key) {
  const cell = (label) => el("td", { "data-label": label });
  const name = el("b");
  const id = el("code");
  const detail = el("small");
  const next = el("span", { class: "next" });
  const why = el("small", { class: "why" }, detail, next);
  const peer = el("td", { class: "peer" }, el("span", { class: "who" }, name, " ", id), why);
  const badge = el("span", { class: "badge" });
  const cells = ["Round trip", "Sent", "Received", "Behind", "Version"].map(cell);
  const actions = el("td", { class: "actions" });
  const state = el("td", { "data-label": "State" }, badge);
  const element = el("tr", {}, peer, state, ...cells, actions);
  return { key, element, name, id, detail, next, badge, cells, actions, nextAt: 0, buttons: "" };
}

function show(row, peer) {
  const state = stateOf(peer);
  setText(row.name, peer.name ?? where(peer));
  setText(row.id, peer.id ? short(peer.id) : "");
  set(row.id, "title", peer.id ?? "");
  set(row.badge, "data-state", state);
  const arrow = peer.direction ? { in: "\u2190 ", out: "\u2192 " }[peer.direction] : "";
  setText(row.badge, arrow + (peer.state === "waiting" ? state : peer.state));
  set(row.badge, "title", peer.direction ? { in: "incoming", out: "outgoing" }[peer.direction] : "");
  const carried = (what) => (peer.state === "connected" ? `${count(peer[what].messages)} \u00b7 ${bytes(peer[what].bytes)}` : "");
  const late = isBehind(peer);
  const most = peer.behind === null ? "not confirmed yet" : peer.behind ? `up to ${count(peer.behind)}, not confirmed` : "0";
  const behind = peer.state !== "connected" ? "" : late ? plural(peer.behind, "message") : most;
  const texts = [delay(peer.rtt_ms), carried("sent"), carried("received"), behind, peer.version ?? ""];
  texts.forEach((text, index) => setText(row.cells[index], text || "\u2013"));
  set(row.cells[3], "data-behind", late);
  setText(row.detail, detail(peer));
  set(row.detail.parentNode, "data-state", state);
  row.nextAt = peer.next_try_s === null ? 0 : Date.now() + 1000 * peer.next_try_s;
  const names = peer.state === "connected" ? ["Disconnect"] : peer.address ? ["Retry now", "Forget"] : ["Forget"];
  if (row.buttons !== names.join()) {
    row.buttons = names.join();
    const had = row.actions.contains(document.activeElement);
    row.actions.replaceChildren(...names.map((name) => button(name, row, peer)));
    if (had) row.actions.firstChild?.focus();
  }
}

const where = (peer) => (peer.address ? host(peer.address) : "unknown address");

const detail = (peer) => (peer.name ? `${where(peer)}, ` : "") + condition(peer);

function condition(peer) {
  const { text } = moment(peer.since);
  if (peer.state === "connected" && peer.notice) return peer.notice;
  if (peer.state === "connected") return `since ${text}${peer.by_hand ? ", added by hand" : ""}`;
  if (peer.state === "dialling") return `since ${text}`;
  const tries = peer.attempts ? `, ${plural(peer.attempts, "attempt")}` : "";
  return `${peer.last_error || "not used so far"}${tries}`;
}

// The result of a button shows where the result of adding an address does.
function button(name, row, peer) {
  const what = peer.address ? host(peer.address) : "this peer";
  const press = async () => {
    try {
      if (name === "Retry now") return await add(peer.address);
      await call(path(row.key), { method: "DELETE" });
      say(name === "Forget" ? `Forgot ${what}.` : `Disconnected from ${what}. It may connect again.`);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      say(`${name} failed: ${error.message}`, "bad");
    }
  };
  return el("button", { type: "button", class: "quiet", text: name, "aria-label": `${name}: ${what}`, onclick: press });
}

// Called every second.
export function tickPeers() {
  countDown();
  follow(latest);
}

function countDown() {
  for (const { next, nextAt } of rows.values()) {
    const left = (nextAt - Date.now()) / 1000;
    setText(next, !nextAt ? "" : left > 0.5 ? `, next try in ${duration(left)}` : ", retrying now");
  }
}

// -- adding -------------------------------------------------------------------------------------
let added = null; // the address that was added last, until its result is known

function say(text, kind = "", suggestion = "") {
  const answer = $("add-answer");
  setText(answer, text);
  set(answer, "data-kind", kind);
  if (!suggestion) return;
  answer.append(" ", el("button", { type: "button", class: "link", text: `Add ${suggestion}`, onclick: () => add(suggestion) }));
}

async function add(text) {
  say("Adding\u2026");
  try {
    const { key, address } = await call("/api/v1/peers", { method: "POST", body: { address: text } });
    added = { key, address, at: Date.now() };
    if ($("address-in").value === text) $("address-in").value = "";
    say(`Connecting to ${address}\u2026`);
    setTimeout(() => follow(latest), STALE);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(`Not added: ${error.message}`, "bad");
  }
}

// Show the result of adding an address.
function follow(peers) {
  if (!added || Date.now() - added.at < STALE) return;
  const { key, address, at } = added;
  const peer = peers.find((entry) => entry.key === key) ?? peers.find((entry) => entry.addresses.includes(address));
  if (peer?.state === "connected") {
    added = null;
    say(`Connected to ${address}${peer.rtt_ms === null ? "" : `, ${delay(peer.rtt_ms)} away`}.`, "good");
  } else if (peer?.state === "self") {
    added = null;
    say(`${address} is this node itself. If the name resolves to other nodes later, this node connects to them.`);
  } else if (peer && peer.state !== "dialling" && peer.last_error && peer.attempts) {
    added = null;
    const [suggestion] = peer.last_error.match(/\bwss?:\/\/\S+:\d+/) ?? [];
    const advice = suggestion ? "" : " Is the node running, is that its peer port, and is no firewall in the way? This node keeps trying.";
    say(`Not connected to ${address}: ${peer.last_error}.${advice}`, "bad", suggestion);
  } else if (Date.now() - at > 3000 && !peer) {
    added = null;
    say(`${address} was forgotten.`);
  } else if (Date.now() - at > 15000) {
    added = null;
    say(`${address} has not answered yet; this node keeps trying.`);
  }
}
