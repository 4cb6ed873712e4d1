// The table of consumers, if there are any: how far each is, and what keeps it.

import { Problem, call } from "./api.js";
import { $, arrange, count, el, set, setText } from "./dom.js";

const PAUSE = 2000; // between two questions, milliseconds
const rows = new Map(); // name -> row
let timer = 0;
let askedAt = -PAUSE;

// Called with the `consumers` of each state of the node.
export function noteConsumers(found) {
  $("consumers").hidden = !found.count;
  if (found.count && !timer) timer = setTimeout(ask, Math.max(0, askedAt + PAUSE - performance.now()));
}

async function ask() {
  let late = false;
  try {
    const { consumers } = await call("/api/v1/consumers");
    show(consumers);
    late = consumers.some((each) => each.lag > 0);
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // the next state asks again
  }
  askedAt = performance.now();
  // A consumer that catches up does not change the state.
  timer = late && !document.hidden ? setTimeout(ask, PAUSE) : 0;
}

function show(consumers) {
  const names = new Set(consumers.map((each) => each.name));
  for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
  for (const each of consumers) {
    if (!rows.has(each.name)) rows.set(each.name, build(each.name));
    const { about, error, cells } = rows.get(each.name);
    const chosen = [each.hook, each.topic && `topic ${each.topic}`, each.own && "own messages"];
    setText(about, chosen.filter(Boolean).join(", "));
    setText(error, each.error);
    [each.lag, each.attempts, each.parked, each.missed].forEach((n, index) => setText(cells[index], count(n)));
    set(cells[1], "data-behind", each.attempts > 0);
    set(cells[2], "data-behind", each.parked > 0);
  }
  arrange($("consumer-rows"), consumers.map((each) => rows.get(each.name).element));
}

function build(name) {
  const [about, error] = [el("small"), el("small", { class: "why", "data-state": "failed" })];
  const cells = ["Not handled", "Attempts", "Put aside", "Missed"].map((label) => el("td", { "data-label": label }));
  const element = el("tr", {}, el("td", { class: "peer" }, el("b", { text: name }), about, error), ...cells);
  return { element, about, error, cells };
}
