// Chooses retrieval heads for a sparsity that the server did not start with, by the server's rule. The
// N - ceil(s (N - 1)) of N heads with the highest gates are kept. Equal gates are ordered by layer, then by head.

/** gates[layer][head] -> retrieval[layer][head], 0 or 1. */
export function chooseRetrieval(gates, sparsity) {
  const ranked = gates
    .flatMap((row, layer) => row.map((gate, head) => ({ gate: Math.min(1, Math.max(0, gate)), layer, head })))
    .sort((a, b) => b.gate - a.gate || a.layer - b.layer || a.head - b.head);
  const n = ranked.length;
  const n_kept = sparsity <= 0 ? n : sparsity >= 1 ? 0 : n - Math.ceil(sparsity * (n - 1));
  const retrieval = gates.map((row) => row.map(() => 0));
  for (const { layer, head } of ranked.slice(0, n_kept)) retrieval[layer][head] = 1;
  return retrieval;
}

export function countRetrieval(retrieval) {
  return retrieval.flat().filter(Boolean).length;
}
