// One event stream for all tabs of a browser: it allows six connections to a server, and each stream takes one.
// A lock elects the tab that reads; the others are told over a channel. Whoever takes over goes on where it ended.

import { headers } from "./api.js";

const MISSED_MS = 15000; // after longer than this all is looked at anew; thousands of old events would only be in the way
const BACK_MS = [300, 1000, 2000, 4000];
const LIVE = new Set(["phase", "progress", "warning", "image"]); // what a job still forms after
const SILENT_MS = 40000; // a heartbeat comes every 15 s: this long without one is a connection that died quietly

// heard(event) for each event, state("online" | "offline" | "locked") when that changes.
export function follow(heard, state) {
  const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("imagen.events") : null;
  const forming = new Map(); // job and picture -> its latest preview, for a tab that is opened later
  let cursor = null;
  let online = null;

  const tell = (message) => {
    if (message.cursor !== undefined) cursor = message.cursor;
    if (message.state && message.state !== online) state((online = message.state));
    if (message.event) heard(message.event);
  };
  const share = (message) => {
    if (message.event) remember(message.event, forming);
    tell(message);
    channel?.postMessage(message);
  };
  channel?.addEventListener("message", ({ data }) => {
    if (!data.hello) tell(data);
    else if (reading && online) {
      channel.postMessage({ state: online, cursor });
      for (const event of forming.values()) channel.postMessage({ event });
    }
  });

  let reading = false;
  const read = async () => {
    reading = true;
    let lost = 0;
    for (let tries = 0; ; tries += 1) {
      if (lost && Date.now() - lost > MISSED_MS) cursor = null;
      const opened = await connection(cursor, share).catch(() => false);
      if (opened || !lost) lost = Date.now();
      if (opened) tries = 0;
      if (opened !== null) share({ state: "offline" });
      await pause(BACK_MS[Math.min(tries, BACK_MS.length - 1)]);
    }
  };
  channel?.postMessage({ hello: true });
  // Locks exist only where the page is trusted (this machine, or HTTPS); elsewhere each tab reads for itself.
  if (channel && navigator.locks) navigator.locks.request("imagen.events", read);
  else read();
}

function remember(event, forming) {
  if (event.type === "preview") forming.set(`${event.job} ${event.image}`, event);
  else if (!LIVE.has(event.type)) for (const key of forming.keys()) if (key.startsWith(event.job)) forming.delete(key);
}

// Reads until the connection ends; whether it was open at all, null where a key is wanted. Not an EventSource: that can bring no key along.
async function connection(cursor, share) {
  const left = new AbortController();
  let watchdog = 0;
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => left.abort(), SILENT_MS);
  };
  alive();
  let opened = false;
  try {
    const answer = await fetch("/v1/events?previews=inline", {
      headers: { ...headers(), ...(cursor === null ? {} : { "last-event-id": String(cursor) }) },
      signal: left.signal,
      cache: "no-store",
    });
    if (answer.status === 401) {
      share({ state: "locked" }); // every tab asks: this one may be the hidden one
      return null;
    }
    if (!answer.ok) return false;
    opened = true;
    share({ state: "online" });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return true;
      alive();
      const whole = (rest + value).split("\n\n");
      rest = whole.pop();
      for (const frame of whole) deliver(frame, share);
    }
  } catch {
    return opened;
  } finally {
    clearTimeout(watchdog);
  }
}

function deliver(frame, share) {
  let id;
  let data = "";
  for (const line of frame.split("\n")) {
    if (line.startsWith("id: ")) id = Number(line.slice(4));
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) share({ cursor: id, event: JSON.parse(data) });
}

const pause = (ms) => new Promise((done) => {
  const over = new AbortController();
  const wake = () => { over.abort(); done(); };
  setTimeout(wake, ms);
  for (const news of ["online", "keyed"]) addEventListener(news, wake, { signal: over.signal });
});
