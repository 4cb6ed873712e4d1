// The list of events.

import { $, el, moment, setText } from "./dom.js";
import { withoutIds } from "./names.js";

const KEPT = 200;
const TAGS = { joined: "connected", left: "disconnected", dial_failed: "dial failed", caught_up: "caught up" };

// Add events, the newest last.
export function addEvents(events) {
  const list = $("events");
  for (const event of events.slice(-KEPT)) list.prepend(row(event));
  while (list.children.length > KEPT) list.lastChild.remove();
  $("no-events").hidden = list.children.length > 0;
}

const shown = (text) => withoutIds(text).replace("no connection: ", "");

// The names of nodes have become known, perhaps.
export function nameEvents() {
  for (const what of document.querySelectorAll("#events .what")) setText(what, shown(what.title));
}

function row(event) {
  const { text: when, title } = moment(event.time);
  const tag = el("span", { class: "tag", text: TAGS[event.type] ?? event.type });
  const what = el("span", { class: "what", dir: "auto", text: shown(event.text), title: event.text });
  return el("li", { "data-type": event.type }, el("time", { text: when, title }), tag, what);
}
