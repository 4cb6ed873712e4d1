// The form that sends a message.

import { call } from "./api.js";
import { $, set, setText } from "./dom.js";
import { countPeers } from "./messages.js";

// Send the text in the form.
export function startSending() {
  const answer = $("send-answer");
  const say = (text, kind = "") => { setText(answer, text); set(answer, "data-kind", kind); };
  const text = $("msg");
  const grow = () => (text.rows = Math.min(6, text.value.split("\n").length));
  text.addEventListener("input", grow);
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("send").requestSubmit();
  });
  $("send").noValidate = true; // this file refuses an empty message, in its own words
  let draft = {}; // what is being sent, and its key: sent again, it is not stored twice
  $("send").addEventListener("submit", async (event) => {
    event.preventDefault();
    const data = text.value;
    if (!data) {
      say("Not sent: the message is empty.", "bad");
      return;
    }
    const button = $("send").querySelector("button");
    if (button.disabled) return;
    button.disabled = true;
    say("Sending\u2026");
    const topic = $("topic").value.trim();
    if (draft.data !== data || draft.topic !== topic) draft = { data, topic, key: newKey() };
    try {
      const message = await post(draft);
      draft = {};
      text.value = "";
      grow();
      const { copies } = message;
      const where = copies ? "Stored here and on a peer." : "Stored here; peers will get it when they connect.";
      say(`Sent. ${where}`, copies || !countPeers() ? "good" : "");
    } catch (error) {
      say(error.status ? `Not sent: ${error.message}` : "No answer from the node. Send it again: it is stored only once.", "bad");
    } finally {
      button.disabled = false;
    }
  });
}

function newKey() {
  const parts = crypto.getRandomValues(new Uint32Array(4));
  return `page-${Array.from(parts, (part) => part.toString(36)).join("-")}`;
}

async function post(body) {
  const path = "/api/v1/messages";
  try {
    const wait = countPeers() ? "?copies=1&timeout=3" : "";
    return await call(path + wait, { method: "POST", body });
  } catch (error) {
    // Too many requests wait for copies, and nothing was stored: send it without waiting.
    if (error.kind !== "busy" || !countPeers()) throw error;
    return call(path, { method: "POST", body });
  }
}
