// Talks to the node: its public API and nothing else.

// A request that failed. `status` is 0 if the node did not answer; else `kind` says what is wrong, and
// the message is the node's sentence about it.
export class Problem extends Error {
  constructor(status, { detail, type = "" } = {}) {
    super(detail || `HTTP ${status}`);
    this.status = status;
    this.kind = type.replace("urn:p2p-sync:", "");
  }
}

// Return the JSON of the node's answer; throws Problem.
export async function call(path, { method = "GET", body, timeout = 10000 } = {}) {
  const control = new AbortController();
  const timer = setTimeout(() => control.abort(), timeout);
  try {
    const sent = body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
    const response = await fetch(path, { method, signal: control.signal, ...sent });
    const text = await response.text();
    if (response.ok) return text ? JSON.parse(text) : null;
    throw new Problem(response.status, problemOf(text));
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(0, { detail: "The node isn\u2019t responding" });
  } finally {
    clearTimeout(timer);
  }
}

export function problemOf(text) {
  try { return JSON.parse(text) ?? {}; } catch { return {}; }
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

// Resolves while the tab is visible: a hidden page asks the node nothing.
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
