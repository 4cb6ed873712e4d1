// Erases a message on all nodes, after a question.

import { call } from "./api.js";
import { el, moment, setText } from "./dom.js";
import { nameOf } from "./names.js";

export const erasedBy = ({ erased }) => (erased.node ? `(erased ${moment(erased.time).text} by ${nameOf(erased.node)})` : "(erased)");

// A link that asks before it erases, and then shows the message as it is; without this file the node asks, on a page of
// its own.
export function eraser(item, show) {
  const path = `/api/v1/messages/${encodeURIComponent(item.id)}`;
  const link = el("a", { class: "erase", href: `/erase?id=${encodeURIComponent(item.id)}`, text: "Erase", onclick: ask });
  function ask(event) {
    event.preventDefault();
    const say = el("span", { text: "Erase it on all nodes, for good?", role: "alert" });
    const yes = el("button", { type: "button", class: "link", text: "Erase", onclick: carryOut });
    const no = el("button", { type: "button", class: "link", text: "Cancel", onclick: () => { box.replaceWith(link); link.focus(); } });
    const box = el("span", { class: "question" }, say, yes, no);
    async function carryOut() {
      yes.disabled = true;
      try {
        show(await call(path, { method: "DELETE" }));
      } catch (error) {
        setText(say, error.status ? `Not erased: ${error.message}` : "No answer from the node. Try again.");
        yes.disabled = false;
      }
    }
    link.replaceWith(box);
    no.focus();
  }
  return link;
}
