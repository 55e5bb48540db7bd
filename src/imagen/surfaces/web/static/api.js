// The public API, and nothing else: what a page needs that it does not have is added there.

const KEY = "imagen.key";
const SENDABLE = /^[\x21-\x7e]+$/; // what a header carries; a browser throws at the rest before anything is sent
let key = remembered();
let asking = null;
const MOST_HELD = 400;
const SAVED_MS = 60000; // long after a browser has begun to write the file
const KINDS = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "application/json": "json", "text/csv": "csv" };
const held = new Map(); // pictures that were fetched with a key

export class Refusal extends Error {
  constructor(message, hint, { code = "", status = 0, retryable = false, param = null } = {}) {
    super(message);
    Object.assign(this, { hint, code, status, retryable, param });
  }
}

export const headers = () => (key ? { authorization: `Bearer ${key}` } : {});

// Ask with JSON, answer with JSON; every failure is a Refusal that says what to do next.
export async function ask(method, path, body, more = {}) {
  const mine = key;
  const answer = await fetched(path, {
    method,
    headers: { ...headers(), ...(body === undefined ? {} : { "content-type": "application/json" }), ...more },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.status === 401 && (mine !== key || (await wantKey()))) return ask(method, path, body, more);
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

export const get = (path) => ask("GET", path);
export const post = (path, body, more) => ask("POST", path, body, more);

async function fetched(path, told) {
  try {
    return await fetch(path, told);
  } catch {
    throw new Refusal("The server does not answer", "Try again when it is back", {
      code: "offline", retryable: true,
    });
  }
}

async function refusal(answer) {
  const told = await answer.json().catch(() => ({}));
  const { message = `The server answered ${answer.status}`, hint = "try again", ...rest } = told.error || {};
  if (answer.status === 401) return new Refusal("This server wants a key", "Give it one with the key at the top", { ...rest, status: 401 });
  return new Refusal(message, hint, { ...rest, status: answer.status });
}

async function file(path) {
  const mine = key;
  const answer = await fetched(path, { headers: headers() });
  if (answer.status === 401 && (mine !== key || (await wantKey()))) return file(path);
  if (!answer.ok) throw await refusal(answer);
  return answer.blob();
}

// The address of a picture for an <img>. With a key it is fetched, because an <img> cannot bring one along.
export async function picture(path) {
  if (!key) return path;
  if (!held.has(path)) {
    const mine = file(path).then((data) => URL.createObjectURL(data));
    held.set(path, mine); // before it is there: who asks meanwhile is given the same
    mine.catch(() => held.get(path) === mine && held.delete(path));
    // What is shown stays shown; only a tab that has looked at thousands would grow without this.
    const [[oldest, address]] = held;
    if (held.size > MOST_HELD) {
      held.delete(oldest);
      address.then((url) => URL.revokeObjectURL(url), () => {});
    }
  }
  return held.get(path);
}

// A file to keep, under a name that says what it is; of which kind, the server says.
export async function download(path, name) {
  const data = await file(path);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  link.download = `${name}.${KINDS[data.type.split(";")[0]] || "bin"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), SAVED_MS);
}

export function slug(text) {
  return text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "picture";
}

// A key that may be sent twice is one job. Not crypto.randomUUID: that is missing where a phone comes by plain HTTP.
export function once() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function wantKey() {
  asking ||= askForKey().finally(() => { asking = null; });
  return asking;
}

// Set by main.js: how a person is asked. Many requests are refused at once; the person is asked once.
let person = async () => null;
export function askWith(ask) { person = ask; }

export const keyed = () => Boolean(key);

async function askForKey() {
  const mine = key;
  const told = await person(Boolean(key));
  if (mine !== key) return true; // given in another tab meanwhile
  if (!told) return false;
  useKey(told);
  return true;
}

// Whether the server knows this key; one that it does not know is never kept.
export async function knows(told) {
  if (!SENDABLE.test(told)) return false;
  const answer = await fetched("/v1/jobs?limit=1", { headers: { authorization: `Bearer ${told}` } });
  if (!answer.ok && answer.status !== 401) throw await refusal(answer);
  return answer.ok;
}

// "" forgets it. What was fetched with the old one is not shown to whoever has the new one.
export function useKey(told) {
  key = told;
  held.clear();
  try {
    if (told) localStorage.setItem(KEY, told);
    else localStorage.removeItem(KEY);
    if (!told) sessionStorage.clear(); // nor are its owner's words left to the next person
  } catch { /* a browser that keeps nothing asks again next time */ }
  dispatchEvent(new Event("keyed"));
}
addEventListener("storage", (event) => {
  if (event.key !== KEY && event.key !== null) return;
  if (key) location.reload(); // as somebody else
  key = remembered();
  dispatchEvent(new Event("keyed"));
});

function remembered() {
  try {
    const told = localStorage.getItem(KEY) || "";
    if (!told || SENDABLE.test(told)) return told;
    localStorage.removeItem(KEY);
  } catch { /* then it is asked for */ }
  return "";
}
