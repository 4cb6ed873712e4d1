// The peers that are unreachable, at the top of the page: which, since when, why, and when it is tried again.

import { $, arrange, duration, el, host, moment, plural, set, setText } from "./dom.js";
import { nameOf } from "./names.js";

const MOST = 5;
const rows = new Map(); // key -> row

// Show them, now and each second. `peers` say when they are tried again; `at` is when that was true.
export function showMissing(unreachable, peers) {
  const known = new Map(peers.map((peer) => [peer.key, peer]));
  const failed = unreachable.filter((each) => each.reason); // others are dialled for the first time
  const list = failed.slice(0, MOST);
  for (const key of rows.keys()) if (!list.some((each) => each.key === key)) rows.delete(key);
  for (const each of list) {
    if (!rows.has(each.key)) rows.set(each.key, build());
    show(rows.get(each.key), each, known.get(each.key));
  }
  arrange($("missing"), list.map((each) => rows.get(each.key).element));
  const more = failed.length - list.length;
  setText($("more-missing"), more ? `and ${plural(more, "other")}` : "");
}

function build() {
  const [name, seen, why, next] = [el("b"), el("span"), el("span"), el("span")];
  return { element: el("li", {}, name, seen, why, next), name, seen, why, next, told: null, at: 0 };
}

function show(row, { name, id, address, since, reason }, peer) {
  setText(row.name, peer?.name ? nameOf(id) : host(name));
  set(row.name, "title", [id, address].filter(Boolean).join(", "));
  if (id) set(row.name, "data-id", id);
  const { text, title } = moment(since);
  setText(row.seen, `${peer?.worked || id ? "last seen" : "not reached since"} ${text}`);
  set(row.seen, "title", title);
  setText(row.why, reason.replace("no connection: ", ""));
  if (row.told !== peer) [row.told, row.at] = [peer, Date.now()];
  const left = peer ? (peer.next_try_s ?? 0) - (Date.now() - row.at) / 1000 : 0;
  setText(row.next, left > 0.5 ? `next try in ${duration(left)}` : "retrying now");
}
