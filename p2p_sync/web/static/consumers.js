// The table of consumers, if there are any: how far each is, and what keeps it.

import { $, arrange, count, el, moment, set, setText } from "./dom.js";
import { showParked } from "./parked.js";

const rows = new Map(); // name -> row

export function showConsumers(consumers) {
  $("consumers").hidden = !consumers.length;
  const names = new Set(consumers.map((each) => each.name));
  for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
  for (const each of consumers) {
    if (!rows.has(each.name)) rows.set(each.name, build(each.name));
    const { about, error, silent, cells } = rows.get(each.name);
    const chosen = [each.hook, each.topic && `topic ${each.topic}`, each.own && "own messages", each.shared && "shared"];
    setText(about, chosen.filter(Boolean).join(", "));
    setText(error, each.error);
    setText(silent, each.no_reader_since ? `no reader since ${moment(each.no_reader_since).text}` : "");
    [each.lag, each.attempts, each.parked, each.missed].forEach((n, index) => setText(cells[index], count(n)));
    set(cells[1], "data-behind", each.attempts > 0);
    set(cells[2], "data-behind", each.parked > 0);
  }
  arrange($("consumer-rows"), consumers.map((each) => rows.get(each.name).element));
  showParked(consumers);
}

function build(name) {
  const [about, error] = [el("small"), el("small", { class: "why", "data-state": "failed" })];
  const silent = el("small", { class: "why" });
  const cells = ["Not handled", "Attempts", "Put aside", "Missed"].map((label) => el("td", { "data-label": label }));
  const element = el("tr", {}, el("td", { class: "peer" }, el("b", { text: name }), about, error, silent), ...cells);
  return { element, about, error, silent, cells };
}
