// Names of nodes. Any node may call itself what it likes, so a name alone is shown only where it
// cannot be taken for another node; else the beginning of the id comes with it.

const MISLEADING = /[0-9a-f]{8}|[:/]|\d+\.\d+\.\d+/; // it looks like an id or an address
const alike = (name = "") => name.normalize("NFKC").toLowerCase();
let names = new Map(); // id -> name, as far as known
let plain = new Set(); // ids of the nodes that people know by their names

// Note the names of this node, of its peers, and of the nodes that these are connected with.
export function noteNames(own, peers) {
  const told = peers.flatMap((peer) => Object.entries(peer.links ?? {}));
  const nodes = [own, ...peers].map((node) => [node.id, node.name]);
  names = new Map([...told, ...nodes].filter(([id, name]) => id && name));
  const ids = new Map(); // name -> the only node with that name, if there is one
  for (const [id, name] of names) ids.set(alike(name), ids.has(alike(name)) ? null : id);
  plain = new Set([...ids].filter(([name, id]) => id && !MISLEADING.test(name)).map(([, id]) => id));
}

// Whether the name of a node is enough for people to know which node it is.
export const isPlain = (id) => plain.has(id);

// What a list calls a node. Of a long name, `most` characters are left.
export function nameOf(id, most = 32) {
  const name = names.get(id);
  if (!name) return short(id);
  const cut = name.length > most ? `${[...name].slice(0, most - 1).join("")}\u2026` : name;
  return isPlain(id) ? cut : `${cut} (${short(id)})`;
}

// The ids of the nodes that are called so, as far as they are known.
export const idsOf = (text) => [...names].filter(([, name]) => alike(name) === alike(text)).map(([id]) => id);

// What the log calls nodes: their names and the beginnings of their ids. People need these only where a name is not plain.
export function withoutIds(text) {
  return [...plain].reduce((rest, id) => rest.replaceAll(`${names.get(id)} (${short(id)})`, () => names.get(id)), text);
}

// A name that is copied brings the id of its node, which is only shown on hover.
export function startNames() {
  document.addEventListener("copy", (event) => {
    const selected = getSelection();
    const [from, to] = [selected.anchorNode, selected.focusNode].map((node) => node?.parentElement?.closest("[data-id]"));
    if (!from || from !== to || selected.isCollapsed) return;
    event.clipboardData.setData("text/plain", `${selected} (${from.dataset.id})`);
    event.preventDefault();
  });
}

export const short = (id) => id.slice(0, 8);
