// The HTTP API: JSON, and server-sent events read from the answer to a POST.

const KEY = "raypixel-key";

export class ApiError extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  // What to tell a person: a sentence, and when to come back.
  get sentence() {
    const again = this.retryAfter ? ` Come back in ${Math.ceil(this.retryAfter)} s.` : "";
    if (this.status === 429) return `The server is busy: too many images wait already.${again}`;
    const text = this.message.charAt(0).toUpperCase() + this.message.slice(1);
    return `${text.replace(/[.\s]*$/, ".")}${again}`;
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

export async function getJson(path) {
  return (await request(path, {})).json();
}

export async function postJson(path, body, signal) {
  return (await request(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

// Yields {event, data} until the stream ends.
export async function* stream(path, body, signal) {
  const asked = { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal };
  const reader = (await request(path, asked)).body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true }).replaceAll("\r", "");
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = parse(block);
      if (event) yield event;
    }
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (!data.length) return null;
  const value = JSON.parse(data.join("\n"));
  if (name === "error") throw new ApiError(value.status, value.detail);
  return { event: name, data: value };
}

async function request(path, options) {
  const headers = { Accept: "application/json" };
  if (options.body) headers["Content-Type"] = "application/json";
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached");
  }
  if (answer.ok) return answer;
  let detail = `The server answered ${answer.status}`;
  try {
    detail = (await answer.json()).detail || detail;
  } catch {
    // not JSON: the status says enough
  }
  throw new ApiError(answer.status, String(detail), answer.headers.get("Retry-After"));
}
