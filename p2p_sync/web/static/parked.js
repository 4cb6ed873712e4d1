// The messages that consumers have put aside, with a button for each that has it handled again.

import { Problem, call } from "./api.js";
import { $, arrange, el, moment, plural, set, setText } from "./dom.js";
import { fillText } from "./texts.js";

const MOST = 20; // of each consumer
const AGAIN = 1500; // after a retry: by then it may be back; milliseconds
const path = (name) => `/api/v1/consumers/${encodeURIComponent(name)}/parked`;
const lists = new Map(); // name of a consumer -> { parked, entries }
const rows = new Map(); // consumer, id, since, kind of text -> row

export function showParked(consumers) {
  const full = new Map(consumers.filter((each) => each.parked).map((each) => [each.name, each.parked]));
  for (const name of lists.keys()) if (!full.has(name)) lists.delete(name);
  for (const [name, parked] of full) {
    if (lists.get(name)?.parked === parked) continue;
    lists.set(name, { parked, entries: lists.get(name)?.entries ?? [] });
    load(name);
  }
  show();
}

// A message was erased: perhaps one that was put aside.
export const reloadParked = () => [...lists.keys()].forEach(load);

async function load(name) {
  const asked = (lists.get(name).asked = {});
  const isLast = () => lists.get(name)?.asked === asked; // else its answer may be older than what is shown
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
  const keyOf = ({ name, id, since, message }) => `${name} ${id} ${since} ${typeof message?.data}`;
  const keys = new Set(entries.map(keyOf));
  for (const key of rows.keys()) if (!keys.has(key)) rows.delete(key);
  for (const entry of entries) if (!rows.has(keyOf(entry))) rows.set(keyOf(entry), build(entry));
  arrange($("parked"), entries.map((entry) => rows.get(keyOf(entry))));
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
  const retry = el("button", { type: "button", class: "link", text: "Retry", "aria-label": `Retry ${id} of ${name}` });
  retry.addEventListener("click", () => again(retry, name, id));
  return el("li", {}, text, el("small", {}, el("b", { text: name }), el("span", { text: error }),
    el("span", { text: `${plural(attempts, "attempt")},` }), el("time", { text: when, title }), retry, ...more));
}

async function again(button, name, id) {
  const answer = $("parked-answer");
  const place = [...$("parked").children].indexOf(button.closest("li"));
  setText(answer, ""); // the same answer as before is read, too
  button.disabled = true;
  try {
    const { retried } = await call(`${path(name)}/retry?id=${encodeURIComponent(id)}`, { method: "POST" });
    set(answer, "data-kind", "");
    setText(answer, retried ? `${name} gets it again.` : "It was not put aside any more, or readers have too many messages now.");
    if (lists.has(name)) await load(name);
    if (!button.isConnected) focusAt(place);
    setTimeout(() => lists.has(name) && load(name), AGAIN); // as many may be put aside as before
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    set(answer, "data-kind", "bad");
    setText(answer, `Retry failed: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

// The button that had the focus is gone: the keyboard goes on at the next row, or at the answer.
function focusAt(place) {
  if (document.activeElement !== document.body) return;
  const row = $("parked").children[place] ?? $("parked").lastElementChild;
  (row?.querySelector("small > button") ?? $("parked-answer")).focus();
}
