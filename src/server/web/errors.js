// Explains an error: what went wrong, and what the reader can do about it.

import { ApiError, hasApiKey } from "./api.js";
import { plural } from "./format.js";

function retryAdvice(error) {
  return error.retry_after_s === null
    ? "Ask again in a moment."
    : `Ask again in ${plural(error.retry_after_s, "second")}.`;
}

const ADVICE_BY_CODE = {
  context_length_exceeded: () => "Take a shorter document, or lower Max tokens.",
  memory_exceeded: () => "Take a shorter document, raise the sparsity, or give the server more memory.",
  session_not_found: () => "Check the session name in Settings.",
};

const ADVICE_BY_STATUS = {
  401: () => (hasApiKey() ? "The server does not accept the API key: check it in Settings."
                          : "Enter the API key in Settings."),
  409: () => "Choose another session name in Settings, or wait until the request that uses this one has ended.",
  413: () => "Take a shorter document.",
  429: retryAdvice,
  503: () => "Ask again after the server has restarted.",
  507: () => "Make room on the server's disk.",
};

/** Returns {message, advice, wants_key} for anything that was thrown. */
export function explain(error) {
  if (error.name === "NetworkError") {
    return { message: error.message, advice: "Check that duo serve is running, then ask again.", wants_key: false };
  }
  if (!(error instanceof ApiError)) {
    return { message: `The page failed: ${error.message}`, advice: "Reload it.", wants_key: false };
  }
  const advice = ADVICE_BY_CODE[error.code] ?? ADVICE_BY_STATUS[error.status] ?? (() => "");
  return { message: error.message, advice: advice(error), wants_key: error.status === 401 };
}
