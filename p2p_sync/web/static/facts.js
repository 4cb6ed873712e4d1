// One row of facts about the node.

import { $, bytes, count, duration, el, moment, set, setText } from "./dom.js";

export function showFacts({ sockets, messages, resources, node }, peers) {
  setText($("sockets"), count(sockets));
  setText($("sockets-word"), sockets === 1 ? "socket" : "sockets");
  setText($("count"), count(messages.count));
  const since = messages.complete_since;
  const word = messages.count === 1 ? "message" : "messages";
  setText($("count-word"), since === null ? word : `${word} since ${moment(since).text}`);
  const { log, free, memory } = resources;
  fact("disk", free === null ? "" : bytes(log), free === null ? "nothing on disk" : `on disk, ${bytes(free)} free`);
  fact("memory", memory ? bytes(memory) : "", memory ? "of memory" : "");
  fact("uptime", duration((Date.now() - node.started) / 1000), "up");
  set($("uptime"), "title", `started ${moment(node.started).title}`);
  fact("versions", `version ${node.version}`, versions(node, peers));
}

function fact(id, number, words) {
  if ($(id).textContent !== `${number} ${words}`) $(id).replaceChildren(el("b", { text: number }), ` ${words}`);
}

// The versions of the peers, if they differ.
function versions(node, peers) {
  const found = new Map();
  for (const { version } of peers) if (version) found.set(version, (found.get(version) ?? 0) + 1);
  if (!found.size) return "";
  if (found.size === 1 && found.has(node.version)) return "on all";
  return `here, ${[...found].map(([version, n]) => `${version} on ${count(n)}`).join(", ")}`;
}
