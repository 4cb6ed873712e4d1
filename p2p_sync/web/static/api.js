// Talks to the node: its public API and nothing else.

// What went wrong, in the node's own words where it said some. `status` 0: it did not answer.
export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Return the JSON that the node answers; throws Problem. `signal` gives the request up.
export async function call(path, { method = "GET", body, timeout = 10000, signal } = {}) {
  const control = new AbortController();
  const timer = setTimeout(() => control.abort(), timeout);
  const giveUp = () => control.abort();
  signal?.addEventListener("abort", giveUp);
  try {
    const sent = body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
    const response = await fetch(path, { method, signal: control.signal, ...sent });
    const text = await response.text();
    if (response.ok) return text ? JSON.parse(text) : null;
    throw new Problem(response.status, detailOf(text) || `HTTP ${response.status}`);
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(0, "the node does not answer");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
  }
}

function detailOf(text) {
  try { return JSON.parse(text).detail; } catch { return ""; }
}

// A pause that `wake` cuts short.
export class Pause {
  wait(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  wake() {}
}

// Resolves at once, or when the tab is shown again: nobody is asked for what nobody looks at.
export function shown() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });
}
