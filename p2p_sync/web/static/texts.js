// The text of a message: shortened, with links, and with what was searched for.

import { count, el } from "./dom.js";

const LONG = 1200; // characters and lines of a text that are shown at first
const LINES = 12;
const AROUND = 200; // characters before what was found in a long text
const LINK = /\bhttps?:\/\/[^\s<>"\u201c\u201d]+/g;
const BLANK = /^[\s\p{Cc}\p{Cf}]*$/u;

// Fill `place` with a text; return what shows all of it and less again, if it is long. `found` is what was searched
// for, a RegExp, or null.
export function fillText(place, text, found) {
  if (BLANK.test(text)) {
    place.className = "empty";
    place.textContent = text ? "(blank)" : "(empty)";
    return [];
  }
  const short = shorten(text, found);
  const fill = (shown) => place.replaceChildren(...parts(shown, found));
  fill(short);
  if (short === text) return [];
  const more = `show all ${count(text.length)} characters`;
  const button = el("button", { type: "button", class: "link", text: more, onclick: () => {
    const all = button.textContent === more;
    fill(all ? text : short);
    button.textContent = all ? "show less" : more;
  } });
  return [button];
}

function shorten(text, found) {
  const lines = text.split("\n", LINES + 1);
  let short = lines.length > LINES ? `${lines.slice(0, LINES).join("\n")}\n` : text;
  short = whole(short.slice(0, LONG));
  const at = found ? text.search(found) : -1;
  if (short !== text && at > short.length - 20) return `\u2026${whole(text.slice(Math.max(0, at - AROUND), at + LONG - AROUND))}\u2026`;
  return short === text ? text : `${short}\u2026`;
}

// Without half a character at either end.
const whole = (text) => text.replace(/^[\udc00-\udfff]/, "").replace(/[\ud800-\udbff]$/, "");

// The text as nodes, with links and marks.
function parts(text, found) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(LINK)) {
    const url = withoutEnd(match[0]);
    if (!URL.canParse(url)) continue;
    nodes.push(...marked(text.slice(from, match.index), found));
    nodes.push(el("a", { class: "url", href: url, rel: "noreferrer noopener", target: "_blank" }, ...marked(url, found)));
    from = match.index + url.length;
  }
  return [...nodes, ...marked(text.slice(from), found)];
}

// What follows an address in a sentence is not a part of it: its full stop, or a bracket that is not opened in it.
function withoutEnd(url) {
  const rest = url.replace(/[.,;:!?'\u2026]+$/, "");
  const isOpen = rest.split("(").length >= rest.split(")").length;
  return rest.endsWith(")") && !isOpen ? withoutEnd(rest.slice(0, -1)) : rest;
}

function marked(text, found) {
  if (!found) return [text];
  const nodes = [];
  let from = 0;
  for (const { 0: hit, index } of text.matchAll(found)) {
    nodes.push(text.slice(from, index), el("mark", { text: hit }));
    from = index + hit.length;
  }
  return [...nodes, text.slice(from)];
}
