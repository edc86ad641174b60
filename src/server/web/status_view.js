// Shows the state of the server: its model, its memory as a gauge, its sequences as a table.

import { attributes, byId, element, setShare, setText } from "./dom.js";
import { bytes, count, plural, seconds } from "./format.js";

const MAX_SEQUENCES = 12;
const STATE_ORDER = ["decode", "prefill", "waiting", "kept"];

function modelFacts({ id, n_layers, n_kv_heads, n_heads, head_dim, weights, kv_type, max_context }) {
  const heads = `${plural(n_layers, "layer")} × ${plural(n_kv_heads, "KV head")}`;
  return [id, heads, `${n_heads} query heads of ${head_dim}`, `weights ${weights}, KV ${kv_type}`, `context ${count(max_context)}`];
}

function showModel(model) {
  const facts = modelFacts(model);
  const target = byId("model-facts");
  if (target.dataset.shown === facts.join("|")) return;
  target.dataset.shown = facts.join("|");
  target.replaceChildren(element("strong", facts[0]), ...facts.slice(1).map((fact) => element("span", fact)));
}

const isRunning = ({ state }) => state === "prefill" || state === "decode";

/** Returns [name, label, bytes] for each part of the budget. */
function memoryParts({ memory, sequences }) {
  const running_bytes = sequences.filter(isRunning).reduce((sum, { kv_bytes }) => sum + kv_bytes, 0);
  const parts = [
    ["weights", "Weights", memory.weights_bytes],
    ["workspace", "Workspace", memory.workspace_bytes + memory.requests_bytes],
    ["running", "Running sequences", running_bytes],
    // The reservation of running sequences includes what they have taken already.
    ["promised", "Reserved for running", Math.max(0, memory.promised_bytes - running_bytes)],
    ["kept", "Kept for reuse", memory.kept_bytes],
  ];
  const used_bytes = parts.reduce((sum, part) => sum + part[2], 0);
  return [...parts, ["free", "Free", Math.max(0, memory.budget_bytes - used_bytes)]];
}

function showMemory(status) {
  const parts = memoryParts(status);
  const { budget_bytes, kv_bytes_per_token: per_token } = status.memory;
  const words = parts.map(([, label, n_bytes]) => `${label.toLowerCase()} ${bytes(n_bytes)}`).join(", ");
  const label = `Memory of ${bytes(budget_bytes)}: ${words}`;
  const gauge = byId("gauge");
  if (gauge.getAttribute("aria-label") === label) return;
  gauge.setAttribute("aria-label", label);
  gauge.replaceChildren(...parts.map(([name, , n_bytes]) => {
    const segment = attributes(element("span.segment"), { "data-part": name });
    setShare(segment, n_bytes / budget_bytes);
    return segment;
  }));
  byId("gauge-legend").replaceChildren(...parts.map(([name, text, n_bytes]) =>
    element("li", attributes(element("span.swatch"), { "data-part": name, "aria-hidden": "true" }), text,
            element("span.amount", bytes(n_bytes)))));
  const split = status.pattern === null ? "" : `, ${bytes(per_token.duo)} with split attention`;
  setText(byId("memory-note"), `Budget ${bytes(budget_bytes)}. A token takes ${bytes(per_token.full)} of KV${split}.`);
}

function tokensText({ state, tokens, prompt_tokens }) {
  return state === "prefill" ? `${count(tokens)} of ${count(prompt_tokens)}` : count(tokens);
}

/** Returns two rows: the columns, and below them the facts for which the columns have no room. */
function sequenceRows(sequence) {
  const { id, name, state, kv_bytes, sparsity, seconds: age_s, cached_tokens } = sequence;
  const sub = `sparsity ${sparsity.toFixed(2)} · ${count(cached_tokens)} reused · ${seconds(age_s)}`;
  const number = (text) => element("td.number", text);
  const title = attributes(element("th.sequence-name", name ?? id ?? "no name"), { scope: "row" });
  const state_cell = attributes(element("td.state-cell", element("span.mark"), state), { "data-state": state });
  const first = element("tr", title, state_cell, number(tokensText(sequence)), number(bytes(kv_bytes)));
  return element("tbody", first, element("tr", attributes(element("td.sub", sub), { colspan: 4 })));
}

function showSequences({ sequences, queue, uptime_s }) {
  const rank = ({ state }) => STATE_ORDER.indexOf(state);
  const sorted = [...sequences].sort((a, b) => rank(a) - rank(b));
  const table = byId("sequences");
  table.hidden = sorted.length === 0;
  for (const body of [...table.tBodies]) body.remove();
  table.append(...sorted.slice(0, MAX_SEQUENCES).map(sequenceRows));
  const none = sorted.length === 0 ? "No sequence runs or is kept. " : "";
  const more = sorted.length > MAX_SEQUENCES ? `And ${sorted.length - MAX_SEQUENCES} more. ` : "";
  setText(byId("sequences-note"),
          `${none}${more}Queue: ${queue.waiting} of ${queue.limit}. Server up for ${seconds(uptime_s)}.`);
}

export function showStatus(status) {
  showModel(status.model);
  showMemory(status);
  showSequences(status);
}
