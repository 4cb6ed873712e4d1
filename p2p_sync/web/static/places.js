// Places in the order that all nodes share: by time, then by origin and number.

export const token = (item, plus = 0) => `${item.time}.${item.origin}.${item.seq + plus}`;

export function place(text) {
  const [, time, origin, seq] = /^(\d+)\.(.*)\.(\d+)$/.exec(text);
  return { time: Number(time), origin, seq: Number(seq) };
}

export function compare(a, b) {
  if (a.time !== b.time) return a.time - b.time;
  if (a.origin !== b.origin) return a.origin < b.origin ? -1 : 1;
  return a.seq - b.seq;
}
