// What has another node join this one: the form, this node's address, and the command for the next machine. It is at
// the top of the page while there is no other node, then beside the peers.

import { $, set, setText } from "./dom.js";

export function startJoin() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(button, $(button.dataset.copy).textContent));
  }
}

// Copy a text, and say so on the button.
export async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page over plain HTTP may do it only in the old way
    const area = Object.assign(document.createElement("textarea"), { value: text });
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.dataset.was ??= button.textContent;
  setText(button, "Copied");
  setTimeout(() => setText(button, button.dataset.was), 1500);
}

export function placeJoin(peers) {
  const others = peers.filter((peer) => peer.state !== "self");
  set(document.body, "data-alone", !others.length);
  if (!others.length) move($("start"));
  else if (others.some((peer) => peer.state === "connected")) move($("peers"));
}

function move(place) {
  const join = $("join");
  if (place.contains(join)) return;
  const focus = join.contains(document.activeElement) ? document.activeElement : null;
  place.append(join);
  focus?.focus({ preventScroll: true });
}
