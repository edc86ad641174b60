// Compares full and split attention, with one sentence per figure.

import { element } from "./dom.js";
import { bytes, count, milliseconds, rate } from "./format.js";

const SAME_WITHIN = 1.05;
// A column that reused more of its prompt had less to read, so its time to first token says nothing about attention.
const REUSE_TOLERANCE = 0.02;
// The speed of a shorter answer says more about the moment than about attention.
const MIN_TOKENS_FOR_SPEED = 64;

/** The factor by which split attention differs, and the direction: "1.9 times less". */
function factorWords(split, full, more, less) {
  const factor = split > full ? split / full : full / split;
  if (!Number.isFinite(factor) || factor < SAME_WITHIN) return "about the same";
  return `${factor.toFixed(factor < 10 ? 1 : 0)} times ${split > full ? more : less}`;
}

function row(label, format, split, full, more, less) {
  if (!Number.isFinite(split) || !Number.isFinite(full)) return null;
  const verdict = factorWords(split, full, more, less);
  const numbers = ` ${format(split)} instead of ${format(full)}`;
  return element("li", `${label} `, element("strong", verdict), element("span.numbers", numbers));
}

function reusedAlike(split, full) {
  return Math.abs(split.cached_tokens - full.cached_tokens) <= REUSE_TOLERANCE * split.prompt_tokens;
}

/** Whether two answers are long enough to compare their speeds. */
export function longEnough(split, full) {
  return Math.min(split.generated_tokens, full.generated_tokens) >= MIN_TOKENS_FOR_SPEED;
}

function speedNote() {
  return element("p.note", `Speeds are compared when both answers have ${MIN_TOKENS_FOR_SPEED} tokens or more.`);
}

function reuseNote(split, full) {
  return element("p.note", `The times to first token cannot be compared: full attention reused `
    + `${count(full.cached_tokens)} tokens of the prompt, split attention ${count(split.cached_tokens)}.`);
}

/** Returns an element, or null while a column has no figures. */
export function comparison(split, full) {
  const alike = reusedAlike(split, full);
  const long_enough = longEnough(split, full);
  const rows = [
    row("KV memory", bytes, split.kv_bytes, full.kv_bytes, "more", "less"),
    alike ? row("First token", milliseconds, split.first_token_ms, full.first_token_ms, "later", "sooner") : null,
    long_enough ? row("Answer", rate, split.tokens_per_s, full.tokens_per_s, "faster", "slower") : null,
  ].filter((item) => item !== null);
  if (rows.length === 0) return null;
  const notes = [alike ? null : reuseNote(split, full), long_enough ? null : speedNote()];
  return element("div.comparison", element("h4", "Split against full"), element("ul", ...rows), ...notes);
}
