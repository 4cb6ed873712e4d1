// What people type into the search: a text, and filters such as topic:deploy from:web-1 since:2h.

import { idsOf } from "./names.js";

export const HINT = "Filters: topic:deploy  from:web-1  since:2h";
// A space may come before the value, but that of "topic: since:2h" has not been typed yet.
const FILTER = /(?:^|\s)(topic|from|since):(?:\s+(?!(?:topic|from|since):))?(?:"([^"]*)"|(\S*))/gi;
const SPANS = { s: 1, m: 60, h: 3600, d: 86400, w: 604800 };

// Return {text, parameters, found, problem}: the parameters of the request, what to mark, and what is wrong with it.
export function parseSearch(typed) {
  const wanted = new URLSearchParams();
  let problem = "";
  const rest = typed.replace(FILTER, (_, written, quoted, plain) => {
    const [name, value] = [written.toLowerCase(), quoted ?? plain];
    if (!value) return "";
    try {
      wanted.set({ topic: "topic", from: "node", since: "since" }[name], { topic: (text) => text, from: nodeOf, since: timeOf }[name](value));
    } catch (error) {
      problem = error.message;
    }
    return "";
  }).trim();
  if (rest) wanted.set("q", rest);
  const found = rest ? new RegExp(rest.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&"), "gi") : null;
  return { text: rest, parameters: `${wanted}`, topic: wanted.get("topic"), found, problem };
}

function nodeOf(value) {
  const ids = idsOf(value);
  if (ids.length === 1) return ids[0];
  if (ids.length) throw new Error(`Several nodes are called \u201c${value}\u201d; give the beginning of an id.`);
  if (/^[0-9a-f]{4,32}$/.test(value)) return value;
  throw new Error(`No node is called \u201c${value}\u201d here; give its name or the beginning of its id.`);
}

function timeOf(value) {
  const span = /^(\d+)([smhdw])$/.exec(value);
  if (span) return Date.now() - span[1] * SPANS[span[2]] * 1000;
  const clock = /^\d{1,2}:\d{2}$/.test(value);
  const day = new Date().toLocaleDateString("sv"); // as in ISO 8601
  const time = Date.parse(clock ? `${day}T${value.padStart(5, "0")}` : /^\d{4}-\d{2}-\d{2}$/.test(value) ? `${value}T00:00` : value);
  if (Number.isNaN(time) || time < 0) throw new Error("since: takes 10m, 2h, 3d, 14:30 or 2026-11-27.");
  return time;
}
