// The messages that consumers have put aside, with buttons that retry them.

import { Problem, call } from "./api.js";
import { $, arrange, el, moment, plural, set, setText } from "./dom.js";
import { fillText } from "./texts.js";

const MOST = 20; // of each consumer
const AGAIN = 1500; // after a retry: by then it may be back; milliseconds
const path = (name) => `/api/v1/consumers/${encodeURIComponent(name)}/parked`;
const lists = new Map(); // name of a consumer -> { parked, entries }
const rows = new Map(); // consumer, id, since, kind of text -> row

export function showParked(consumers) {
  const full = consumers.filter((each) => each.parked);
  for (const name of lists.keys()) if (!full.some((each) => each.name === name)) lists.delete(name);
  for (const { name, parked } of full) {
    if (lists.get(name)?.parked === parked) continue;
    lists.set(name, { parked, entries: lists.get(name)?.entries ?? [] });
    load(name);
  }
  show();
}

// A message was erased.
export const reloadParked = () => [...lists.keys()].forEach(load);

async function load(name) {
  const asked = (lists.get(name).asked = {});
  const isLast = () => lists.get(name)?.asked === asked; // else its answer may be stale
  try {
    const { parked } = await call(`${path(name)}?limit=${MOST}`);
    if (isLast()) lists.get(name).entries = parked;
    show();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (isLast()) lists.get(name).parked = -1; // asked for again with the next news
  }
}

function show() {
  const entries = [...lists].flatMap(([name, list]) => list.entries.map((entry) => ({ name, ...entry })));
  const shown = new Map(entries.map((entry) => [`${entry.name} ${entry.id} ${entry.since} ${typeof entry.message?.data}`, entry]));
  for (const key of rows.keys()) if (!shown.has(key)) rows.delete(key);
  for (const [key, entry] of shown) if (!rows.has(key)) rows.set(key, build(entry));
  arrange($("parked"), [...shown.keys()].map((key) => rows.get(key)));
  const more = [...lists.values()].reduce((sum, list) => sum + Math.max(0, list.parked - list.entries.length), 0);
  $("parked-title").hidden = !entries.length;
  $("more-parked").hidden = !more || !entries.length;
  setText($("more-parked"), `and ${plural(more, "other")}; see: p2p-sync consumers parked NAME`);
}

function build({ name, id, attempts, error, since, message }) {
  const data = message?.data ?? null;
  const text = el("p", data === null ? {} : { dir: "auto" });
  const more = data === null ? [] : fillText(text, data, null);
  if (data === null) [text.className, text.textContent] = ["empty", message ? "(erased)" : "(deleted)"];
  const { text: when, title } = moment(since);
  const retry = el("button", { type: "button", class: "link", text: "Retry", "aria-label": `Retry ${id} of ${name}`,
    onclick: () => again(retry, name, id) });
  return el("li", {}, text, el("small", {}, el("b", { text: name }), el("span", { text: error }),
    el("span", { text: `${plural(attempts, "attempt")},` }), el("time", { text: when, title }), retry, ...more));
}

async function again(button, name, id) {
  const answer = $("parked-answer");
  const say = (text, kind = "") => { setText(answer, text); set(answer, "data-kind", kind); };
  const place = [...$("parked").children].indexOf(button.closest("li"));
  say(""); // the same answer as before is read, too
  button.disabled = true;
  try {
    const { retried } = await call(`${path(name)}/retry?id=${encodeURIComponent(id)}`, { method: "POST" });
    say(retried ? `${name} gets it again.` : "It was not put aside any more, or readers have too many messages now.");
    const reload = () => lists.has(name) && load(name);
    await reload();
    setTimeout(reload, AGAIN);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(`Retry failed: ${error.message}`, "bad");
  }
  button.disabled = false;
  if (document.activeElement !== document.body) return;
  // The keyboard goes on there, at the next row, or at the answer.
  const row = $("parked").children[place] ?? $("parked").lastElementChild;
  (button.isConnected ? button : row?.querySelector("small > button") ?? answer).focus();
}
