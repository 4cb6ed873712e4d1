// Asks the node for its state and shows it; notices when the node is gone and when it is back.

import { Pause, Problem, call, shown } from "./api.js";
import { noteConsumers } from "./consumers.js";
import { $, el, set, setText } from "./dom.js";
import { followEvents } from "./events.js";
import { showMesh } from "./mesh.js";
import { loadMessages, showNames, startMessages, startSending, updateErased, updateMessages } from "./messages.js";
import { noteNames } from "./names.js";
import { countDown, isAdding, showPeers, startPeers } from "./peers.js";
import { forgetRates, showRates } from "./rates.js";
import { showLost, showVerdict } from "./verdict.js";

const BEAT = 900; // between two questions, milliseconds
const LONGEST = 10000; // between two tries to find the node again

const pause = new Pause();
let peers = [];
let peersAt = 0; // when to ask for them again
let run = null; // identifies one run of the node: {started, version}
let failures = 0;
let lost = null; // while the node does not answer: {reason, at, since}
let begun = false; // the messages are loaded
let found = () => {}; // resolves `contact`
let contact = Promise.resolve();

// Ask now, also for the peers.
function hurry() {
  peersAt = 0;
  pause.wake();
}

async function ask() {
  const list = async () => (await call("/api/v1/peers")).peers;
  // The list first: the verdict must not be older than what the list says.
  let entries = performance.now() >= peersAt || isAdding() ? await list() : null;
  const status = await call("/api/v1/status");
  const restarted = run !== null && run.started !== status.node.started;
  // Another version of the node has another page.
  if (run && run.version !== status.node.version) location.reload();
  run = { started: status.node.started, version: status.node.version };
  if (restarted) entries = await list();
  if (entries) {
    peers = entries;
    // Many peers are many bytes, and change little: ask less often.
    peersAt = performance.now() + Math.max(1800, 10 * peers.length);
    if (restarted) forgetRates();
    noteNames([status.node, ...peers]);
    showPeers(peers);
    showMesh(peers, status.node);
    showNames();
    showRates(peers);
  }
  setText($("address"), status.node.address);
  showWarnings(status.warnings);
  noteConsumers(status.consumers);
  showVerdict(status, peers, restarted);
  if (!begun) await loadMessages();
  begun = true;
  await updateMessages(status, peers, restarted);
}

// Screen readers read a warning when it changes.
function showWarnings(warnings) {
  const texts = warnings.map((warning) => `Warning: ${warning}.`);
  const shownNow = [...$("warnings").children].map((child) => child.textContent);
  if (texts.join("\n") === shownNow.join("\n")) return;
  $("warnings").replaceChildren(...texts.map((text) => el("p", { class: "problem warning", text })));
}

function regained() {
  failures = 0;
  if (!lost) return;
  lost = null;
  found();
  set($("contact"), "data-state", "live");
  setText($("contact"), "live");
}

function missed(error) {
  failures += 1;
  const wait = Math.min(LONGEST, 500 * 2 ** failures);
  if (!lost) {
    lost = { since: new Date().toLocaleTimeString() };
    contact = new Promise((resolve) => (found = resolve));
    set($("contact"), "data-state", "lost");
    setText($("contact"), "no contact");
  }
  lost.reason = error.message;
  lost.at = Date.now() + wait;
  tellLost();
  return wait;
}

const tellLost = () => showLost(lost.reason, Math.round((lost.at - Date.now()) / 1000), lost.since);

async function live() {
  for (;;) {
    await shown();
    let wait = BEAT;
    try {
      await ask();
      regained();
    } catch (error) {
      // One answer may get lost on the way; a fault of this page must not stop it either.
      if (!(error instanceof Problem)) console.error(error);
      else if (failures === 0 && error.status === 503) failures = 1;
      else wait = missed(error);
    }
    await pause.wait(wait);
  }
}

startPeers(hurry);
startMessages();
startSending(hurry);
setInterval(() => {
  if (document.hidden) return;
  countDown();
  if (lost) tellLost();
}, 1000);
for (const name of ["online", "visibilitychange"]) addEventListener(name, hurry);
live();
followEvents(() => contact, (events) => {
  hurry();
  if (events.some((event) => event.type === "erased")) updateErased().catch(() => {}); // the next event tries again
});
