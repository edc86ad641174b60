// Formats numbers for the page. An unknown number becomes a dash.

export const DASH = "–";
const MINUS = "−";
const integers = new Intl.NumberFormat("en");

const isKnown = (value) => Number.isFinite(value);

export function count(n) {
  return isKnown(n) ? integers.format(Math.round(n)) : DASH;
}

/** Three significant digits, without an exponent. */
export function digits(value) {
  if (!isKnown(value)) return DASH;
  const n_decimals = value === 0 ? 0 : Math.min(3, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
  const text = value.toFixed(n_decimals).replace("-", MINUS);
  return Math.abs(value) >= 1000 ? count(value) : text;
}

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(n_bytes) {
  if (!isKnown(n_bytes)) return DASH;
  let value = n_bytes;
  let unit = 0;
  while (Math.abs(value) >= 1000 && unit + 1 < BYTE_UNITS.length) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? count(value) : digits(value)} ${BYTE_UNITS[unit]}`;
}

export function milliseconds(ms) {
  if (!isKnown(ms)) return DASH;
  if (ms < 1000) return `${digits(ms < 10 ? ms : Math.round(ms))} ms`;
  return seconds(ms / 1000);
}

export function seconds(s) {
  if (!isKnown(s)) return DASH;
  if (s < 120) return `${s < 1 ? s.toFixed(2) : digits(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

export function rate(tokens_per_s) {
  return isKnown(tokens_per_s) ? `${digits(tokens_per_s)} tokens/s` : DASH;
}

export function percent(share) {
  return isKnown(share) ? `${digits(share * 100)} %` : DASH;
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}
