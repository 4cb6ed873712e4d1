// The list of events, and the long poll for new ones.

import { Pause, call, shown } from "./api.js";
import { $, el, moment } from "./dom.js";

const KEPT = 200;
const TAGS = { joined: "connected", left: "disconnected", dial_failed: "dial failed", caught_up: "caught up" };
const WAIT = 25; // seconds that the node may hold a poll

// Follow the node's events for ever; `happened` is called with those of each answer, if there are any. `contact`
// resolves while the node answers, so that only page.js looks for a node that is gone.
export async function followEvents(contact, happened) {
  const pause = new Pause();
  let after = "";
  for (;;) {
    await shown();
    await contact();
    const control = new AbortController();
    const hide = () => document.hidden && control.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const answer = await call(`/api/v1/events?after=${after}&timeout=${WAIT}`, {
        timeout: (WAIT + 10) * 1000,
        signal: control.signal,
      });
      after = answer.next;
      add(answer.events);
      if (answer.events.length) happened(answer.events);
    } catch (error) {
      if (error.status === 410) after = ""; // the node has restarted, and counts from 1 again
      else await pause.wait(document.hidden ? 0 : 2000);
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
  }
}

function add(events) {
  const list = $("events");
  for (const event of events.slice(-KEPT)) list.prepend(row(event));
  while (list.children.length > KEPT) list.lastChild.remove();
  $("no-events").hidden = list.children.length > 0;
}

function row(event) {
  const { text, title } = moment(event.time);
  const tag = el("span", { class: "tag", text: TAGS[event.type] ?? event.type });
  const what = el("span", { class: "what", dir: "auto", text: event.text });
  return el("li", { "data-type": event.type }, el("time", { text, title }), tag, what);
}
