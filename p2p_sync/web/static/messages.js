// The messages: a window on the log of any length. Only what is in the window is in the page.
//
// `items` is a part of the log without gaps, newest first. `merge` puts what the node sends in its place. Where that has
// left some out, since they were many, `refresh` asks for a span of the log. So a burst costs no more than a page.

import { Pause, Problem, call } from "./api.js";
import { $, arrange, count, el, moment, plural, set, setText } from "./dom.js";
import { erasedBy, eraser } from "./erasing.js";
import { nameOf } from "./names.js";
import { compare, place, token } from "./places.js";
import { HINT, parseSearch } from "./search.js";
import { fillText } from "./texts.js";
import { isBehind } from "./verdict.js";

const PAGE = 50;
const MOST = 300; // rows in the page
const MOST_COUNTED = 200; // messages in one answer
const READ_PAUSE = 1000; // from one answer that is not asked for by the user to the next, milliseconds
const RETRY_PAUSE = 5000; // the same where there was none
const UNCONFIRMED = 40000; // a peer confirms what it has within half a minute; milliseconds
const NEAR = 300; // pixels from the end of the list at which more is fetched

let items = [];
let atNewest = true; // the window reaches the newest message
let complete = false; // and the oldest
let query = ""; // what was typed into the search
let search = parseSearch("");
let older = ""; // where to read on
let last = readLast();
let latest = { count: 0, seen: 0, conflicts: 0, peers: 0, behind: 0 }; // as the node has told
let late = new Set(); // the ids of connected peers that are behind
let unreachable = [];
let gone = []; // those of them that do not answer: {id, since}
let loaded = false; // there were messages, or none
let missing = false; // newer messages than those in the window were left out of it
let recent = []; // the last messages that the node has sent
let arrived = 0; // how many it has sent
const wanted = new Set(); // what is to be read, see `want`
let reader = 0; // the timer for that
let readAt = 0; // when to do so at the earliest
let edits = 0; // grows when the window is moved elsewhere: answers to older questions are dropped
let loading = false; // the window is on its way elsewhere: nothing is read at its ends
const rows = new Map(); // id -> row
const scroll = () => $("scroll");

const inAddress = (name) => new URLSearchParams(location.search).get(name) ?? "";
const before = inAddress("before"); // where this page begins
let topic = inAddress("topic"); // "": all

export function startMessages() {
  if (before) atNewest = false;
  scroll().addEventListener("scroll", scrolled, { passive: true });
  $("fresh").addEventListener("click", () => toNewest());
  $("order").addEventListener("click", turn);
  $("search").addEventListener("input", typed);
  $("search").addEventListener("focus", () => query || setText($("messages-note"), HINT));
  $("search").addEventListener("blur", note);
  $("filter").addEventListener("click", (event) => choose(event, ""));
  addEventListener("popstate", showTopic);
  showOrder();
}

// The node has told its state.
export function noteState({ messages, conflicts, verdict }, restarted) {
  unreachable = verdict.unreachable;
  const { count: total } = messages;
  if (!loaded) want("load");
  else if (restarted || conflicts !== latest.conflicts) want("all");
  // None is new to a page that has just begun.
  const seen = !loaded || (following() && !missing) ? total : latest.seen;
  latest = { ...latest, count: total, conflicts, seen };
  showFresh();
}

// The node has told its peers. Of the latest messages it tells the copies, too; those of others are read.
export function notePeers(peers) {
  const ours = peers.filter((peer) => peer.state === "connected" && peer.id);
  const behind = ours.reduce((sum, peer) => sum + (peer.behind ?? 0), 0);
  if (ours.length !== latest.peers) want("sight");
  else if (behind !== latest.behind) want("copies");
  latest = { ...latest, peers: ours.length, behind };
  const failing = new Set(peers.filter((peer) => peer.id && peer.attempts > 0).map((peer) => peer.key));
  gone = unreachable.filter((peer) => failing.has(peer.key));
  late = new Set(ours.filter(isBehind).map((peer) => peer.id));
  tickMessages();
  showNames();
}

// Called every second.
export const tickMessages = () => items.forEach((item) => showCopies(rows.get(item.id), item));

export const countPeers = () => latest.peers;

// The node has sent messages: new ones, or erased ones.
export function addMessages(messages) {
  if (!messages.length) return;
  recent = [...recent, ...messages].slice(-MOST);
  arrived += messages.length;
  if (!loaded || loading) return;
  merge(messages);
  trim(true);
  render();
}

// The node has told which peers have messages, {id: {copies, lacking}}.
export function updateCopies(spreads) {
  for (const item of items) {
    if (!(item.id in spreads)) continue;
    Object.assign(item, spreads[item.id]);
    showCopies(rows.get(item.id), item);
  }
}

// The node has left messages out, since they were too many.
export const updateMessages = () => want("all");

// The node is back: read what was wanted.
export const resumeMessages = () => wanted.forEach(want);

// -- reading ------------------------------------------------------------------------------------
// Have something read soon, but not too often: "load", the first messages; "all" in the window; "sight", those in
// sight; "copies", the same if they are not on all peers.
function want(what) {
  wanted.add(what);
  reader ||= setTimeout(readWanted, Math.max(0, readAt - performance.now()));
}

async function readWanted() {
  const all = new Set(wanted);
  wanted.clear();
  readAt = performance.now() + READ_PAUSE;
  try {
    if (all.has("load") && !loaded) await loadFirst();
    else if (all.has("all") || all.has("sight") || isPartial()) await readAgain(all.has("all"));
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error);
    readAt = performance.now() + RETRY_PAUSE;
    all.forEach((what) => wanted.add(what));
  }
  reader = 0;
  wanted.forEach(want);
}

// An invalid place means the newest message.
function loadFirst() {
  return load(query ? "" : before).catch((error) => {
    if (error.status !== 400) throw error;
    atNewest = true;
    return load("");
  });
}

async function readAgain(all) {
  if (following()) {
    await refresh("", PAGE);
    latest.seen = latest.count;
  } else {
    const [first] = inSight();
    if (first) await refresh(token(first, 1), Math.min(200, inSight().length + 4));
  }
  for (let at = 0; all && at < items.length; at += MOST_COUNTED) {
    await refresh(token(items[at], 1), Math.min(MOST_COUNTED, items.length - at));
  }
  showFresh();
}

const isPartial = () => inSight().some((item) => (item.copies ?? 0) < latest.peers);

async function fetchBack(after, limit) {
  if (search.problem) return { messages: [], next: "", complete: true };
  const mine = edits;
  const filters = query ? `&${search.parameters}${search.topic ? "" : ofTopic()}` : ofTopic();
  const target = `/api/v1/messages?order=newest&copies=1&limit=${limit}&after=${after}${filters}`;
  const answer = await call(target, { timeout: 20000 });
  return mine === edits ? answer : null;
}

// Start again at a place; "" is the newest message.
async function load(after) {
  edits += 1;
  const mine = edits;
  const from = arrived;
  loading = true;
  const answer = await fetchBack(after, PAGE).finally(() => { if (mine === edits) loading = false; });
  if (!answer) return;
  ({ messages: items, next: older, complete } = answer);
  const scrolled = !loaded && !last && scroll().scrollTop > 0; // in the rows of the page itself
  loaded = true;
  missing = false;
  merge(since(from), true);
  render(!scrolled);
  if (query) await searchOn(mine);
}

// Update the window from a place downwards.
async function refresh(after, limit) {
  const began = arrived;
  const answer = await fetchBack(after, limit);
  if (!answer) return;
  const from = after ? place(after) : null;
  const to = answer.next && !answer.complete ? place(answer.next) : null;
  const newer = from ? items.filter((item) => compare(item, from) >= 0) : [];
  const beyond = to ? items.filter((item) => compare(item, to) < 0) : [];
  // If the span ends above all that we have, there is a gap, and the rest is dropped.
  const joins = !to || !items.length || items.some((item) => compare(item, to) >= 0);
  const stay = joins ? beyond : [];
  if (!stay.length) ({ next: older, complete } = answer);
  items = [...newer, ...answer.messages, ...stay];
  if (!after) missing = false;
  merge(since(began));
  trim(true);
  render();
}

// The messages that the node has sent since there were so many: an answer may be older.
const since = (number) => recent.slice(Math.max(0, recent.length - (arrived - number)));

// Put messages in their places in the window; `jump`: it is about to show the newest.
function merge(messages, jump = false) {
  const follow = jump ? atNewest : following();
  for (const message of messages) {
    const at = items.findIndex((item) => item.id === message.id);
    if (at >= 0) items[at] = { ...items[at], ...message };
    else if (message.erased || (topic && message.topic !== topic)) continue;
    else if (query || (missing && follow)) want("sight");
    else if (!items.length || compare(message, items[0]) > 0) {
      if (follow) items.unshift(message);
      else missing ||= atNewest;
    } else if (complete || compare(message, items.at(-1)) > 0) items.push(message);
  }
  items.sort((a, b) => compare(b, a));
}

let reading = null;

// Run one `read` at a time; return whether the node answered. If not, the next scroll tries again.
function alone(read) {
  const fail = (error) => {
    if (!(error instanceof Problem)) throw error;
    return false;
  };
  reading ??= read().then(() => true, fail).finally(() => (reading = null));
  return reading;
}

async function readOlder() {
  const from = older;
  const answer = complete ? null : await fetchBack(from, PAGE);
  if (!answer || older !== from) return;
  items = [...items, ...answer.messages];
  ({ next: older, complete } = answer);
  trim(false);
  render();
}

async function readNewer() {
  if (atNewest || !items.length) return;
  if (query) return void toNewest();
  const [first] = items;
  const mine = edits;
  const answer = await call(`/api/v1/messages?order=time&limit=${PAGE}&after=${token(first)}${ofTopic()}`);
  if (first.id !== items[0]?.id || mine !== edits) return;
  items = [...answer.messages.reverse(), ...items];
  atNewest = answer.messages.length < PAGE;
  if (atNewest) latest.seen = latest.count;
  if (atNewest) missing = false;
  trim(true);
  render();
  showFresh();
}

// Keep the window small: drop rows at the end that is not in sight.
function trim(oldest) {
  if (items.length <= MOST) return;
  if (oldest) {
    items = items.slice(0, MOST);
    older = token(items.at(-1));
    complete = false;
  } else {
    items = items.slice(-MOST);
    atNewest = false;
  }
}

export async function toNewest() {
  atNewest = true;
  latest.seen = latest.count;
  await load("").catch(() => want("sight"));
  scroll().scrollTop = edge();
  showFresh();
}

// -- the list -----------------------------------------------------------------------------------
// Where the scroll bar is when the newest message is in sight.
const edge = () => (last ? scroll().scrollHeight - scroll().clientHeight : 0);
const following = () => atNewest && Math.abs(scroll().scrollTop - edge()) < 12;

function inSight() {
  const box = scroll().getBoundingClientRect();
  return items.filter((item) => {
    const at = rows.get(item.id)?.element.getBoundingClientRect();
    return at && at.bottom > box.top && at.top < box.bottom;
  });
}

function render(jump = false) {
  const follow = jump ? atNewest : following();
  // The first row in sight stays where it is, whatever comes before it.
  const keep = follow ? null : inSight().map((item) => rows.get(item.id)).at(last ? -1 : 0);
  const top = keep?.element.getBoundingClientRect().top;
  const alive = new Set(items.map((item) => item.id));
  for (const id of rows.keys()) if (!alive.has(id)) rows.delete(id);
  for (const item of items) {
    const row = rows.get(item.id);
    if (row?.erased !== !!item.erased || row.found !== search.found) rows.set(item.id, build(item));
    showCopies(rows.get(item.id), item);
  }
  const elements = items.map((item) => rows.get(item.id).element);
  arrange($("messages"), last ? elements.reverse() : elements);
  $("none").hidden = items.length > 0;
  const none = topic ? "No messages of this topic yet." : "No messages yet. A message sent on any node appears on all of them.";
  setText($("none"), query ? noneFound() : none);
  if (follow) scroll().scrollTop = edge();
  else if (keep?.element.isConnected) scroll().scrollTop += keep.element.getBoundingClientRect().top - top;
  note();
}

function build(item) {
  const text = el("p", item.erased ? { class: "empty" } : { dir: "auto" });
  const erase = item.erased ? [] : [eraser(item, show)];
  const { text: when, title } = moment(item.imported?.time ?? item.time);
  const copies = el("span", { class: "copies" });
  const place = `origin ${item.origin}, number ${item.seq}`;
  const node = item.imported?.node ?? nodeOf(item);
  const from = el("code", { text: nameOf(node), title: place, "data-id": node });
  const about = item.topic ? [label(item.topic)] : [];
  if (item.imported) {
    const how = `imported by ${nameOf(nodeOf(item))}, ${moment(item.time).title}`;
    about.push(el("span", { text: " (imported)", title: how }));
  }
  const small = el("small", {}, el("time", { text: when, title }), " from ", from, ...about, ...erase, copies);
  const element = el("li", {}, text, small);
  if (item.erased) text.textContent = erasedBy(item);
  else small.append(...fillText(text, item.data, search.found));
  return { element, copies, from, node, erased: !!item.erased, found: search.found, name: () => item.erased && setText(text, erasedBy(item)) };
}

const nodeOf = (item) => item.origin.slice(0, 32);

// Show the names of nodes as they are known now.
function showNames() {
  for (const { from, node, name } of rows.values()) {
    setText(from, nameOf(node));
    name();
  }
}

// A message was erased.
function show(message) {
  items = items.map((item) => (item.id === message.id ? { ...message, copies: item.copies } : item));
  render();
}

// Name the peers that lack a message. Those that are connected have a while to confirm it, unless they are behind; one
// that is gone lacks what is newer than its last link.
function showCopies({ copies } = {}, item) {
  if (!copies || !item.lacking) return;
  const fresh = Date.now() - item.time < UNCONFIRMED;
  const lacking = item.lacking.filter((id) => !fresh || late.has(id));
  lacking.push(...gone.filter((peer) => item.time > peer.since).map((peer) => peer.id));
  const names = [...new Set(lacking)].map((id) => nameOf(id));
  const few = names.length > 2 ? [names[0], `${names.length - 1} others`] : names;
  setText(copies, names.length ? `not on ${few.join(" and ")} yet` : "");
  set(copies, "title", names.length ? `not confirmed by ${names.join(", ")}` : "");
}

// Show how many messages are new, without moving what the user is reading. Nobody counts those of a
// topic.
function showFresh() {
  const news = topic ? 0 : latest.count - latest.seen;
  const button = $("fresh");
  button.hidden = query !== "" || following() || (news <= 0 && atNewest && !topic);
  setText(button, news > 0 ? plural(news, "new message") : "Go to the newest");
}

function scrolled() {
  const fromNewest = Math.abs(scroll().scrollTop - edge());
  const length = scroll().scrollHeight - scroll().clientHeight;
  if (loading) return showFresh();
  if (length - fromNewest < NEAR) alone(readOlder);
  if (fromNewest < NEAR && !atNewest) alone(readNewer);
  if (fromNewest < 12 && atNewest && (missing || latest.seen !== latest.count)) toNewest();
  else showFresh();
}

function note() {
  const text = complete ? "End of the log" : "Scroll for older messages";
  if (!query) setText($("messages-note"), items.length ? text : "");
}

// -- newest first or last -----------------------------------------------------------------------
// A browser without storage throws; then the order lasts for as long as the page is open.
function readLast() {
  try { return localStorage.getItem("p2p_sync.order") === "last"; } catch { return false; }
}

function turn() {
  last = !last;
  try { localStorage.setItem("p2p_sync.order", last ? "last" : "first"); } catch { /* see above */ }
  showOrder();
  render(true);
}

const showOrder = () => setText($("order"), last ? "Sort: newest last" : "Sort: newest first");

// -- searching ----------------------------------------------------------------------------------
const quiet = new Pause();
let typings = 0;

async function typed() {
  typings += 1;
  const mine = typings;
  quiet.wake();
  await quiet.wait(250);
  if (mine !== typings) return;
  const value = $("search").value.trim();
  const wanted = parseSearch(value);
  query = wanted.parameters || wanted.problem ? value : "";
  search = wanted;
  atNewest = true;
  setText($("messages-note"), query ? "Searching\u2026" : "");
  await load("").catch((error) => {
    if (error.status !== 400) return setText($("messages-note"), "Search failed. Type again to retry.");
    wanted.problem = error.message;
    return load("");
  });
  showFresh();
}

// One answer covers a part of the log: keep asking until a page is full, or all is read.
async function searchOn(mine) {
  while (mine === edits && !complete && items.length < PAGE) {
    setText($("messages-note"), `${count(items.length)} found so far, searched back to ${moment(place(older).time).text}\u2026`);
    if (!(await alone(readOlder))) return setText($("messages-note"), "Search interrupted. Try again.");
  }
  if (mine !== edits) return;
  const more = complete ? "found" : "found so far, scroll for more";
  setText($("messages-note"), items.length ? `${count(items.length)} ${more}` : noneFound());
  render();
}

const noneFound = () => search.problem || (complete ? `No messages match \u201c${query}\u201d.` : "Searching\u2026");

// -- topics -------------------------------------------------------------------------------------
// The address of the page has the topic that is shown, so it outlives a reload.
const addressOf = (name) => (name ? `/?topic=${encodeURIComponent(name)}` : "/");
const ofTopic = () => (topic ? `&topic=${encodeURIComponent(topic)}` : "");
const label = (name) => el("a", { class: "topic", href: addressOf(name), text: name, title: "Show only this topic", onclick: (event) => choose(event, name) });

function choose(event, name) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
  event.preventDefault();
  history.pushState(null, "", addressOf(name));
  showTopic();
}

function showTopic() {
  topic = $("topic").value = inAddress("topic");
  setText($("filter"), topic);
  $("filter").hidden = !topic;
  items = [];
  toNewest();
}
