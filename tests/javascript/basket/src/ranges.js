/** Keep a value between two bounds. */
export function clamp(value, low = 0, high = 10) {
  if (value < low) {
    return low;
  }
  if (value > high) {
    return high;
  }
  return value;
}

/** Numbers from start up to stop, which is left out. */
export function range(start, stop, step = 1) {
  const out = [];
  for (let at = start; at < stop; at += step) {
    out.push(at);
  }
  return out;
}

export const pairs = (items) => items.slice(0, -1).map((item, at) => [item, items[at + 1]]);
