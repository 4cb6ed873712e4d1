// One line that says whether all is well, in words, with a sign and a colour.

import { $, duration, plural, set, setText } from "./dom.js";

// A state that lasts no longer is normal: a message is on its way. Milliseconds.
const SETTLE = 1500;
// Whether a peer lacks messages. One that may only not have confirmed the latest does not count.
export const isBehind = (peer) => peer.state === "connected" && peer.late > 0;

let settled = null; // the verdict that is shown
let changedAt = 0; // since when it should be another one
let catching = null; // where catching up began: {at, held}

// Show the verdict, now and each second; `fresh`: nothing before it counts, as after a restart of the node.
export function showVerdict(status, fresh = false) {
  const now = performance.now();
  const found = status.verdict;
  const slips = settled && isBrief(settled, found);
  if (!slips || fresh) changedAt = now;
  if (!slips || fresh || now - changedAt >= SETTLE || status.behind > 500) settled = found;
  const { state, text } = settled;
  const missing = settled.unreachable;
  const catchingUp = state === "catching_up" && status.behind > 0;
  show(state, text, catchingUp ? timeLeft(status, now) : why(state, missing), missing.length > 0);
  const sign = { in_sync: "\u2713", degraded: "!" }[state] ?? (state === "alone" && missing.length ? "\u2715" : "\u2022");
  document.title = `${sign} ${text} \u2013 p2p_sync`;
}

// Whether a verdict is often followed by a better one at once: a message is on its way, a new peer is being dialled.
function isBrief(from, to) {
  if (from.state === "alone" && to.state === "alone") return !from.unreachable.length;
  return ["alone", "in_sync"].includes(from.state) && ["behind", "catching_up"].includes(to.state);
}

export function showLost(reason, seconds, since) {
  const again = seconds > 0 ? `Retrying in ${seconds} s` : "Retrying now";
  show("lost", "Lost contact with the node", `${reason}. ${again}. All below is as of ${since}.`);
  document.title = "\u2715 Lost contact \u2013 p2p_sync";
}

function show(state, text, note, missing = false) {
  set($("verdict"), "data-state", state);
  set($("verdict"), "data-missing", missing);
  set($("sign"), "href", `#i-${state}`);
  // Read out when it changes, but not each step of catching up.
  set($("verdict-text"), "aria-live", state === "catching_up" ? "off" : "polite");
  setText($("verdict-text"), text);
  setText($("verdict-note"), note);
  if (state !== "catching_up") catching = null;
}

function timeLeft(status, now) {
  const held = status.messages.count;
  catching ??= { at: now, held };
  $("progress").value = Math.floor((1000 * held) / Math.max(1, held + status.behind));
  const rate = (held - catching.held) / Math.max(0.5, (now - catching.at) / 1000);
  const left = rate > 0 ? `, about ${duration(Math.max(1, status.behind / rate))} left` : "";
  return `${plural(status.behind, "message")} to go${left}`;
}

function why(state, missing) {
  if (state === "alone" && !missing.length) return "Paste the address of another node, or start one that joins this one.";
  if (state === "degraded") return "Everyone else is in sync.";
  return state === "in_sync" && !missing.length ? "All peers have every message." : "";
}
