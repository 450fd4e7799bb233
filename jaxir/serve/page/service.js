// The service's HTTP API, and the key it may ask for.

const KEY = "jaxir-api-key";

export class ServiceError extends Error {
  constructor(status, message, wait) {
    super(message);
    this.status = status; // of HTTP; 0 where nobody answered
    this.wait = wait; // seconds until it makes sense to ask again; null where it does not
  }
}

// The key lives as long as the tab and is sent to this page's own service only.
export const key = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return ""; // storage is switched off
    }
  },
  set(value) {
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch {
      // The key is asked for again at the next load.
    }
  },
};

function waitOf(response) {
  if (response.status !== 429 && response.status !== 503) return null;
  const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 1), 60) : 2;
}

async function call(path, options, signal) {
  const headers = { Accept: "application/json", ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "It may have been stopped, or the network is down.", null);
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (response.ok) throw new ServiceError(response.status, "The answer is not JSON.", null);
  }
  if (!response.ok) {
    const said = answer?.error?.message ?? answer?.message ?? response.statusText;
    throw new ServiceError(
      response.status,
      String(said || "No reason was given."),
      waitOf(response),
    );
  }
  return answer;
}

export async function readIndexes(signal) {
  const answer = await call("indexes", { method: "GET" }, signal);
  const found = Array.isArray(answer?.indexes) ? answer.indexes : [];
  if (!found.length && !(await isReady(signal))) {
    throw new ServiceError(503, "It is opening its indexes.", 2);
  }
  return found;
}

async function isReady(signal) {
  try {
    await call("ready", { method: "GET" }, signal);
    return true;
  } catch (error) {
    if (error.status === 503) return false;
    throw error;
  }
}

export async function search({ index, query, k, rerank }, signal) {
  const body = { index: index.name, query, k, return_documents: true };
  if (rerank) body.rerank = true;
  if (index.explain) body.explain = true;
  const options = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await call("search", options, signal);
  return { hits: answer?.results?.[0]?.hits ?? [], took: answer?.took_ms ?? null };
}
