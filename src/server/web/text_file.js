// Reads a file as text, or says why this is not possible.

const MAX_FILE_BYTES = 256 * 1024 * 1024;

/** Returns {text, note}. Throws an Error with a sentence when the file is not text. */
export async function readTextFile(file) {
  if (file.size === 0) throw new Error(`${file.name} is empty.`);
  if (file.size > MAX_FILE_BYTES) throw new Error(`${file.name} is larger than 256 MiB, more than any context takes.`);
  const data = new Uint8Array(await file.arrayBuffer());
  if (data.subarray(0, 4096).includes(0)) throw new Error(`${file.name} is not a text file: it holds zero bytes.`);
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(data), note: "" };
  } catch {
    const text = new TextDecoder("windows-1252").decode(data);
    return { text, note: "The file is not UTF-8; it was read as Western European text (Windows-1252)." };
  }
}

export function utf8Bytes(text) {
  return new TextEncoder().encode(text).length;
}
