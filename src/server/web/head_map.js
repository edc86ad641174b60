// The head map: a grid of layers x KV heads. A retrieval head is a filled cell. A streaming head is a hollow cell with
// both ends marked, so the map can be read without colour. The map is one tab stop, and arrow keys move inside it.

import { attributes, byId, element, setText } from "./dom.js";
import { digits, plural } from "./format.js";
import { chooseRetrieval, countRetrieval } from "./heads.js";

const MAX_HEADS_WITH_GATES = 8;
const MAX_LAYERS_WITH_GATES = 16;
const MAX_HEADS_WITH_LETTERS = 16;

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function densityOf(n_layers, n_heads) {
  if (n_heads <= MAX_HEADS_WITH_GATES && n_layers <= MAX_LAYERS_WITH_GATES) return "gates";
  return n_heads <= MAX_HEADS_WITH_LETTERS ? "letters" : "shapes";
}

function summaryOf({ name, sink, recent }, retrieval, is_preview) {
  const n_retrieval = countRetrieval(retrieval);
  const n_streaming = retrieval.flat().length - n_retrieval;
  const n_without = retrieval.filter((row) => !row.some(Boolean)).length;
  const layers = n_without === 0 ? "Every layer has a retrieval head."
    : `${plural(n_without, "layer")} of ${retrieval.length} without a retrieval head.`;
  const lead = is_preview ? "At the sparsity of the slider" : `Pattern “${name}”`;
  return `${lead}: ${plural(n_retrieval, "retrieval head")}, ${plural(n_streaming, "streaming head")} that keep `
    + `the first ${plural(sink, "token")} and the last ${recent}. ${layers}`;
}

export class HeadMap {
  #key = "";
  #cells = [];
  #at = [0, 0];

  constructor() {
    this.grid = byId("heads-grid");
    this.grid.addEventListener("keydown", (event) => this.#walk(event));
    this.grid.addEventListener("pointerover", (event) => this.#readOut(event.target));
    this.grid.addEventListener("focusin", (event) => this.#readOut(event.target));
  }

  /** sparsity: null for the server's own choice. Rebuilds the map only when it has changed. */
  show(pattern, sparsity) {
    const key = JSON.stringify([pattern, sparsity]);
    if (key === this.#key) return;
    this.#key = key;
    byId("heads-map").hidden = pattern === null;
    if (pattern === null) {
      setText(byId("heads-summary"), "This server runs without a head pattern: every head keeps the whole KV cache. "
        + "Start it with --pattern to split the heads.");
      return;
    }
    const retrieval = sparsity === null ? pattern.retrieval : chooseRetrieval(pattern.gates, sparsity);
    setText(byId("heads-summary"), summaryOf(pattern, retrieval, sparsity !== null));
    this.#fill(pattern.gates, retrieval);
  }

  #fill(gates, retrieval) {
    const n_heads = gates[0]?.length ?? 0;
    const density = densityOf(gates.length, n_heads);
    this.grid.dataset.density = density;
    this.grid.style.setProperty("--n-heads", String(n_heads));
    this.#cells = gates.map((row, layer) => row.map((gate, head) => this.#cell({
      layer, head, gate, is_retrieval: Boolean(retrieval[layer][head]), density })));
    this.grid.replaceChildren(...this.#cells.map((cells, layer) => attributes(
      element("div.heads-row", attributes(element("span.layer", String(layer)),
                                          { role: "rowheader", "aria-label": `Layer ${layer}` }), ...cells),
      { role: "row" })));
    this.#focusable(Math.min(this.#at[0], gates.length - 1), Math.min(this.#at[1], n_heads - 1));
  }

  #cell({ layer, head, gate, is_retrieval, density }) {
    const kind = is_retrieval ? "retrieval" : "streaming";
    const letter = density === "shapes" ? null : is_retrieval ? "R" : "S";
    const number = density === "gates" ? element("span.gate", gate.toFixed(2)) : null;
    const words = `Layer ${layer}, head ${head}: ${kind}, gate ${digits(gate)}`;
    const cell = element(`span.cell.${kind}`, letter, number);
    Object.assign(cell.dataset, { layer, head });
    return attributes(cell, { role: "gridcell", tabindex: "-1", title: words, "aria-label": words });
  }

  #focusable(layer, head) {
    const [old_layer, old_head] = this.#at;
    this.#cells[old_layer]?.[old_head]?.setAttribute("tabindex", "-1");
    this.#at = [layer, head];
    const cell = this.#cells[layer]?.[head];
    cell?.setAttribute("tabindex", "0");
    return cell;
  }

  #walk(event) {
    const n_layers = this.#cells.length;
    const n_heads = this.#cells[0]?.length ?? 0;
    const [layer, head] = this.#at;
    const step = STEPS[event.key];
    let to = null;
    if (step) to = [layer + step[0], head + step[1]];
    if (event.key === "Home") to = [layer, 0];
    if (event.key === "End") to = [layer, n_heads - 1];
    if (to === null) return;
    event.preventDefault();
    const within = (value, n) => Math.min(n - 1, Math.max(0, value));
    this.#focusable(within(to[0], n_layers), within(to[1], n_heads))?.focus();
  }

  #readOut(target) {
    const cell = target.closest?.("[role=gridcell]");
    if (!cell) return;
    setText(byId("heads-readout"), `${cell.title}.`);
    if (document.activeElement?.closest("#heads-grid")) return;
    this.#focusable(Number(cell.dataset.layer), Number(cell.dataset.head));
  }
}
