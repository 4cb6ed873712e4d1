// The table of peers with a menu for each, and the form that adds one.

import { Problem, call } from "./api.js";
import { $, arrange, bytes, count, delay, duration, el, host, moment, plural, set, setText } from "./dom.js";
import { copy } from "./join.js";
import { rank, stateOf } from "./mesh.js";
import { nameOf } from "./names.js";
import { isBehind } from "./verdict.js";

const MOST = 100; // rows in the page
const STALE = 300; // after an address was added, a list on its way may be older; milliseconds
const path = (key) => `/api/v1/peers/${encodeURIComponent(key)}`;
const rows = new Map(); // key -> row
const order = []; // keys in the order they were first seen, so that rows do not jump about
let all = false; // show unused addresses, too
let latest = [];
let sorting = { by: "", down: false }; // "": in the order they were first seen

const SORTS = {
  Peer: (peer) => (peer.id ? nameOf(peer.id) : "~"), Address: (peer) => where(peer), State: rank, "Round trip": (peer) => peer.rtt_ms ?? 1e9,
  Sent: (peer) => peer.sent.messages, Received: (peer) => peer.received.messages,
  Behind: (peer) => (peer.state === "connected" ? peer.behind ?? 0 : 1e12), Version: (peer) => peer.version ?? "~",
};
const collator = new Intl.Collator("en", { numeric: true });

export function startPeers() {
  for (const head of document.querySelectorAll("[data-sort]")) {
    head.replaceChildren(el("button", { type: "button", text: head.textContent, onclick: () => sortBy(head.dataset.sort) }));
  }
  // A click elsewhere, or Escape, closes a menu.
  for (const kind of ["click", "keydown"]) {
    document.addEventListener(kind, (event) => {
      for (const menu of document.querySelectorAll(".menu[open]")) {
        if (kind === "click" ? menu.contains(event.target) : event.key !== "Escape") continue;
        menu.open = false;
        if (kind === "keydown") menu.firstChild.focus();
      }
    });
  }
  $("all-peers").addEventListener("click", () => {
    all = !all;
    showPeers(latest);
  });
  $("add").addEventListener("submit", (event) => {
    event.preventDefault();
    add($("address-in").value);
  });
}

function sortBy(by) {
  sorting = { by, down: sorting.by === by && !sorting.down };
  for (const head of document.querySelectorAll("[data-sort]")) {
    if (head.dataset.sort === by) set(head, "aria-sort", sorting.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  showPeers(latest);
}

function compare(a, b) {
  const [one, other] = [a, b].map(SORTS[sorting.by]);
  return (sorting.down ? -1 : 1) * (typeof one === "number" ? one - other : collator.compare(one, other));
}

export function showPeers(peers) {
  latest = peers;
  const needed = (peer) => peer.state !== "waiting" || peer.by_hand || peer.attempts > 0;
  const known = new Map(peers.map((peer) => [peer.key, peer]));
  for (const peer of peers) if (!order.includes(peer.key)) order.push(peer.key);
  for (let i = order.length - 1; i >= 0; i--) if (!known.has(order[i])) order.splice(i, 1);
  const found = order.map((key) => known.get(key)).filter((peer) => all || needed(peer));
  const list = (sorting.by ? found.sort(compare) : found).slice(0, MOST);
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
  const [name, detail, next, badge] = [el("b"), el("span"), el("span"), el("span", { class: "badge" })];
  const why = el("small", { class: "why" }, detail, next);
  const [address, state] = [el("td", { class: "where" }), el("td", { class: "state" }, badge)];
  const cells = ["Round trip", "Sent", "Received", "Behind", "Version"].map(cell);
  const handle = el("summary", { class: "quiet", title: "Actions", text: "\u22ef" });
  const buttons = el("div");
  const menu = el("details", { class: "menu" }, handle, buttons);
  const element = el("tr", {}, el("td", { class: "peer" }, name, why), address, state, ...cells, el("td", { class: "actions" }, menu));
  return { key, element, name, why, detail, next, badge, address, cells, menu, handle, buttons, nextAt: 0, offered: "" };
}

function show(row, peer) {
  const state = stateOf(peer);
  setText(row.name, peer.id ? nameOf(peer.id) : "unknown");
  set(row.name, "title", peer.id ?? "");
  if (peer.id) set(row.name, "data-id", peer.id);
  setText(row.address, where(peer));
  set(row.address, "title", peer.by_hand ? "added by hand" : "");
  set(row.badge, "data-state", state);
  const arrow = peer.direction ? { in: "\u2190 ", out: "\u2192 " }[peer.direction] : "";
  setText(row.badge, arrow + (state === "failed" && peer.state === "waiting" ? "unreachable" : peer.state));
  const direction = { in: "incoming, ", out: "outgoing, " }[peer.direction] ?? "";
  set(row.badge, "title", `${direction}since ${moment(peer.since).text}`);
  const carried = (what) => (peer.state === "connected" ? `${count(peer[what].messages)} \u00b7 ${bytes(peer[what].bytes)}` : "");
  const late = isBehind(peer);
  const most = peer.behind === null ? "not confirmed yet" : peer.behind ? `up to ${count(peer.behind)}` : "0";
  const behind = peer.state !== "connected" ? "" : late ? plural(peer.behind, "message") : most;
  const texts = [delay(peer.rtt_ms), carried("sent"), carried("received"), behind, peer.version ?? ""];
  texts.forEach((text, index) => setText(row.cells[index], text || "\u2013"));
  set(row.cells[3], "data-behind", late);
  set(row.cells[3], "title", peer.behind && !late ? "not confirmed yet" : "");
  setText(row.detail, condition(peer));
  row.why.hidden = !condition(peer);
  set(row.why, "data-state", state);
  row.nextAt = peer.next_try_s === null ? 0 : Date.now() + 1000 * peer.next_try_s;
  set(row.handle, "aria-label", `Actions: ${where(peer)}`);
  const offered = [peer.state !== "connected" && peer.address && "Retry now", peer.address && "Copy address", peer.id && "Copy id",
    peer.state === "connected" ? "Disconnect and forget" : "Forget"].filter(Boolean);
  if (row.offered === offered.join()) return;
  row.offered = offered.join();
  row.buttons.replaceChildren(...offered.map((name) => button(name, row, peer)));
}

const where = (peer) => (peer.address ? host(peer.address) : "unknown address");

// What is wrong with a peer; "" if it is connected and all is well.
function condition(peer) {
  if (peer.state === "connected") return peer.notice;
  if (peer.state === "dialling") return "";
  const tries = peer.attempts ? `, ${plural(peer.attempts, "attempt")}` : "";
  return `${peer.last_error.replace("no connection: ", "") || "not used so far"}${tries}`;
}

// The result of a button shows where the result of adding an address does.
function button(name, row, peer) {
  const what = where(peer);
  const press = async (event) => {
    if (name.startsWith("Copy")) return copy(event.target, name === "Copy id" ? peer.id : peer.address);
    row.menu.open = false;
    row.handle.focus();
    try {
      if (name === "Retry now") return await add(peer.address);
      await call(path(row.key), { method: "DELETE" });
      say(name === "Forget" ? `Forgot ${what}.` : `Disconnected from ${what} and forgot its address. It may connect again.`);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      say(`${name} failed: ${error.message}`, "bad");
    }
  };
  return el("button", { type: "button", text: name, "aria-label": `${name}: ${what}`, onclick: press });
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
let added = null; // the address that was added last, until it is connected

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
  const { key, address, at, told } = added;
  const peer = peers.find((entry) => entry.key === key) ?? peers.find((entry) => entry.addresses.includes(address));
  if (peer?.state === "connected") {
    added = null;
    say(`Connected to ${address}${peer.rtt_ms === null ? "" : `, ${delay(peer.rtt_ms)} away`}.`, "good");
  } else if (peer?.state === "self") {
    added = null;
    say(`${address} is this node itself. If the name resolves to other nodes later, this node connects to them.`);
  } else if (told && peer) {
    return; // the reason is shown until it is connected
  } else if (peer && peer.state !== "dialling" && peer.last_error && peer.attempts) {
    added.told = true;
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
