// The stream of the node: it sends the state, and what is new, as long as the tab is visible.

import { Problem, problemOf } from "./api.js";

const SILENCE = 12000; // the node sends something every 5 s; milliseconds

let place = ""; // where to go on

// Read the stream until it ends; `got` is called with the events of each piece, [{type, data}]. Throws Problem if there
// is no answer, or another one. A stream that has begun ends without an error: it can be opened again.
export async function readStream(got) {
  const control = new AbortController();
  const hide = () => document.hidden && control.abort();
  let timer = 0;
  let begun = false;
  const hear = () => {
    clearTimeout(timer);
    timer = setTimeout(() => control.abort(), SILENCE);
  };
  document.addEventListener("visibilitychange", hide);
  try {
    hear();
    const response = await fetch(`/api/v1/stream?after=${place}`, { signal: control.signal });
    if (!response.ok) throw new Problem(response.status, problemOf(await response.text()));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    begun = true;
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      hear();
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      const events = frames.map(parse).filter((event) => event.type);
      if (events.length) got(events);
      place = events.findLast((event) => event.id)?.id ?? place;
    }
  } catch (error) {
    if (error instanceof Problem) throw error;
    if (!begun && !document.hidden) throw new Problem(0, { detail: "The node isn\u2019t responding" });
  } finally {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", hide);
  }
}

function parse(frame) {
  const fields = {};
  for (const line of frame.split("\n")) {
    const at = line.indexOf(": ");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
  }
  return { type: fields.event, id: fields.id, data: fields.data && JSON.parse(fields.data) };
}
