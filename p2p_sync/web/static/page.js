// Shows what the node sends; notices when the node is gone and when it is back.

import { Pause, Problem, shown } from "./api.js";
import { showConsumers } from "./consumers.js";
import { $, el, set, setText } from "./dom.js";
import { addEvents, nameEvents } from "./events.js";
import { showFacts } from "./facts.js";
import { placeJoin, startJoin } from "./join.js";
import { showMissing } from "./missing.js";
import { showMesh } from "./mesh.js";
import { addMessages, notePeers, noteState, resumeMessages, startMessages, tickMessages, updateCopies, updateMessages } from "./messages.js";
import { noteNames, startNames } from "./names.js";
import { reloadParked } from "./parked.js";
import { showPeers, startPeers, tickPeers } from "./peers.js";
import { forgetRates, showRates, startRates } from "./rates.js";
import { startSending } from "./sending.js";
import { readStream } from "./stream.js";
import { showLost, showVerdict } from "./verdict.js";

const BRIEF = 1000; // a stream that ends sooner was of no use, milliseconds
const LONGEST = 10000; // between two tries to find the node again

const pause = new Pause();
let status = null;
let peers = [];
let failures = 0;
let lost = null; // while the node does not answer: {reason, at, since}

function got(events) {
  regained();
  const of = (...types) => events.filter((event) => types.includes(event.type));
  const last = (type) => of(type).at(-1)?.data;
  if (last("state")) showState(last("state"));
  if (last("peers")) showList(last("peers").peers);
  if (last("consumers")) showConsumers(last("consumers").consumers);
  addMessages(of("message", "erased").map((event) => event.data));
  if (of("erased", "reload").length) reloadParked();
  of("copies").forEach((event) => updateCopies(event.data));
  if (last("reload")) updateMessages();
  const happened = of("event").map((event) => event.data);
  if (happened.length) addEvents(happened);
}

function showState(found) {
  const restarted = status !== null && status.node.started !== found.node.started;
  // Another version of the node has another page.
  if (status && status.node.version !== found.node.version) location.reload();
  if (restarted) forgetRates();
  status = found;
  showFacts(status, peers);
  showWarnings(status.warnings);
  showVerdict(status, restarted);
  showMissing(status.verdict.unreachable, peers);
  noteState(status, restarted);
}

function showList(found) {
  peers = found;
  noteNames(status.node, peers);
  placeJoin(peers);
  nameEvents();
  showMissing(status.verdict.unreachable, peers);
  showPeers(peers);
  showMesh(peers, status.node);
  notePeers(peers);
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
  set($("contact"), "data-state", "live");
  setText($("contact"), "live");
  set(document.body, "data-lost", false);
  for (const answer of document.querySelectorAll(".answer[data-kind=bad]")) setText(answer, "");
  if (status) showVerdict(status);
  resumeMessages();
}

function missed(error) {
  failures += 1;
  const wait = Math.min(LONGEST, 500 * 2 ** failures);
  // A node that has just begun or is about to stop says so.
  if (failures === 1 && error.status === 503) return wait;
  if (!lost) {
    lost = { since: new Date().toLocaleTimeString() };
    set($("contact"), "data-state", "lost");
    setText($("contact"), `no contact, as of ${lost.since}`);
    set(document.body, "data-lost", true);
  }
  lost.reason = error.message;
  lost.at = Date.now() + wait;
  tellLost();
  return wait;
}

const tellLost = () => showLost(lost.reason, Math.round((lost.at - Date.now()) / 1000), lost.since);

// A fault of this page must not stop it.
function carefully(act, ...given) {
  try { act(...given); } catch (error) { console.error(error); }
}

async function live() {
  for (;;) {
    await shown();
    const began = performance.now();
    try {
      await readStream((events) => carefully(got, events));
      if (performance.now() - began < BRIEF && !document.hidden) throw new Problem(0, { detail: "The node has ended the connection" });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      await pause.wait(missed(error));
    }
  }
}

function tick() {
  if (document.hidden) return;
  tickPeers();
  tickMessages();
  if (lost) return tellLost();
  if (!status) return;
  showMissing(status.verdict.unreachable, peers);
  showVerdict(status);
  showFacts(status, peers);
  showRates(peers);
}

startNames();
startJoin();
startRates();
startPeers();
startMessages();
startSending();
setInterval(() => carefully(tick), 1000);
for (const name of ["online", "visibilitychange"]) addEventListener(name, () => pause.wake());
live();
