// The HTTP interface of duo serve: requests, errors with sentences for the reader, and streamed answers.

import { sseEvents } from "./sse.js";

export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retry_after_s = null } = {}) {
    super(message);
    Object.assign(this, { name: "ApiError", status, code, param, retry_after_s });
  }
}

/** No answer came, or it broke off. */
export class NetworkError extends Error {
  constructor(message) {
    super(message);
    this.name = "NetworkError";
  }
}

let api_key = "";

export function setApiKey(key) {
  api_key = key;
}

export const hasApiKey = () => api_key !== "";

function headersFor(body) {
  // fetch() reports a header with other characters as a network failure, which would mislead the reader.
  if (!/^[\x21-\x7e]*$/.test(api_key)) {
    throw new ApiError("The API key contains a blank or a character that keys cannot have.", { status: 401 });
  }
  return {
    ...(body === undefined ? {} : { "Content-Type": "application/json" }),
    ...(api_key === "" ? {} : { Authorization: `Bearer ${api_key}` }),
  };
}

async function errorOf(response) {
  const payload = await response.json().catch(() => ({}));
  const error = payload.error ?? {};
  const retry_after_s = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new ApiError(error.message ?? `The server answered with status ${response.status}.`, {
    status: response.status,
    code: error.code,
    param: error.param,
    retry_after_s: Number.isNaN(retry_after_s) ? null : retry_after_s,
  });
}

const isAbort = (error) => error.name === "AbortError";

async function request(path, { body, signal } = {}) {
  const options = { method: body === undefined ? "GET" : "POST", headers: headersFor(body), cache: "no-store", signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  const response = await fetch(path, options).catch((error) => {
    throw isAbort(error) ? error : new NetworkError("The server cannot be reached.");
  });
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function requestJson(path, options) {
  const response = await request(path, options);
  return response.json().catch((error) => {
    throw isAbort(error) ? error : new NetworkError("The server's answer broke off.");
  });
}

export const fetchStatus = (signal) => requestJson("v1/status", { signal });

/** Returns {count, max_context} of a text alone, without begin-of-text. */
export const tokenize = (content, signal) =>
  requestJson("tokenize", { body: { content, add_special: false }, signal });

function partsOfChunk(chunk) {
  if (chunk.error) {
    const { message, code, param } = chunk.error;
    throw new ApiError(message ?? "The server stopped with an error.", { status: 500, code, param });
  }
  const choice = chunk.choices?.[0];
  return {
    id: chunk.id,
    text: choice?.delta?.content ?? choice?.text ?? "",
    finish: choice?.finish_reason ?? null,
    usage: chunk.usage ?? null,
    duo: chunk.duo ?? null,
  };
}

function prefillOf(comment) {
  const match = /^prefill (\d+) of (\d+)/.exec(comment);
  return match ? { n_read: Number(match[1]), n_prompt: Number(match[2]) } : null;
}

/** Yields {prefill: {n_read, n_prompt}} while the prompt is read, then {id, text, finish, usage, duo} per chunk. */
export async function* streamAnswer({ path, body }, signal) {
  const response = await request(path, { body, signal });
  try {
    for await (const event of sseEvents(response.body)) {
      if (event.data === "[DONE]") return;
      if (event.data !== undefined) {
        yield partsOfChunk(JSON.parse(event.data));
      } else {
        const prefill = prefillOf(event.comment);
        if (prefill) yield { prefill };
      }
    }
  } catch (error) {
    if (error instanceof ApiError || isAbort(error)) throw error;
    throw new NetworkError("The connection broke off before the answer was complete.");
  }
  throw new NetworkError("The connection ended before the answer was complete.");
}
