// What the page knows: jobs, models, whether the server answers. Plain state, and who wants to hear of a change.

import { get } from "./api.js";
import { follow } from "./stream.js";
import { worked } from "./words.js";

const PAGE = 60;
const FEW = 6;
const MEET_MS = 40; // those that begin together are met together
const ENDS = new Set(["completed", "failed", "cancelled"]);

export const state = { jobs: new Map(), models: [], next: null, link: "connecting", ready: false };
export const ended = (job) => ENDS.has(job.state);
export const newest = () => [...state.jobs.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
export const model = (name) => state.models.find((one) => one.name === name);
export const title = (name) => model(name)?.title || name || "";

// Topics: "models", "jobs" (which there are, and their states), "link", and the id of a job (anything about it).
const listeners = new Map();
export function on(topic, heard) {
  if (!listeners.has(topic)) listeners.set(topic, new Set());
  listeners.get(topic).add(heard);
  return () => listeners.get(topic)?.delete(heard);
}
function tell(topic, value) {
  for (const heard of [...(listeners.get(topic) || [])]) heard(value);
}

export function keep(job) {
  const old = state.jobs.get(job.id);
  // An answer that was on its way while an event came is older than the event.
  if (old && (ended(old) ? !ended(job) : old.attempt > job.attempt)) return old;
  const kept = { ...job, previews: old?.previews || {}, warnings: job.warnings || old?.warnings || [] };
  state.jobs.set(job.id, kept);
  tell(job.id, kept);
  if (!old || old.state !== kept.state || standing(old) !== standing(kept)) tell("jobs", kept);
  return kept;
}

const standing = (job) => job.images.map((one) => one.state).join();

export function forget(id) {
  state.jobs.delete(id);
  tell("jobs", null);
}

export async function models() {
  state.models = (await get("/v1/models")).models.filter((one) => one.enabled);
  tell("models");
}

// Once there are models, or cannot be: what names them waits for that.
export const haveModels = async () => state.models.length || models().catch(() => {});

// Everything of this moment: after the first look, after a time without a server, after coming back to the tab.
export async function refresh() {
  const [running, queued, recent] = await Promise.all([
    ...["running", "queued"].map((name) => get(`/v1/jobs?state=${name}&limit=100`)),
    get(`/v1/jobs?limit=${PAGE}`),
    models(),
  ]);
  const alive = new Set([...running.jobs, ...queued.jobs].map((job) => job.id));
  for (const job of [...recent.jobs, ...queued.jobs, ...running.jobs]) keep(job);
  state.ready = true;
  for (const job of [...state.jobs.values()]) {
    if (!ended(job) && !alive.has(job.id)) await look(job.id); // it ended while nobody was listening
  }
  tell("jobs", null);
}

export async function look(id) {
  return keep(await get(`/v1/jobs/${id}`));
}

export function begin() {
  follow(heard, (link) => {
    const back = state.link === "offline" && link === "online";
    state.link = link;
    tell("link", link);
    if (back) refresh().catch(() => {});
  });
  // Models come and go while the page is open: a folder that is added appears when somebody looks.
  // So do pictures: nothing tells of one that somebody deletes, so it is noticed when this tab is looked at again.
  addEventListener("focus", () => models().catch(() => {}));
  document.addEventListener("visibilitychange", () => { if (!document.hidden && state.ready) refresh().catch(() => {}); });
  return refresh();
}

const unknown = new Map(); // id -> what was heard of it meanwhile
function heard(event) {
  if (!event.job) return;
  const job = state.jobs.get(event.job);
  if (!job) {
    meet(event);
    return;
  }
  if (ended(job)) return;
  const before = `${job.state}${job.images.length}`;
  (HEARD[event.type] || (() => {}))(job, event);
  tell(job.id, job);
  if (before !== `${job.state}${job.images.length}`) tell("jobs", job);
  if (ENDS.has(event.type)) look(job.id).catch(() => {}); // with what only the whole job says
}

// Drawn by another tab or the command line, or going on since before this page was opened: looked at once, and what
// came in between is told after that. The first thing a stream says is the latest preview, so none is asked for.
function meet(event) {
  const waiting = unknown.get(event.job);
  if (waiting) {
    waiting.push(event);
    return;
  }
  if (!unknown.size) setTimeout(introduce, MEET_MS);
  unknown.set(event.job, [event]);
}

// A few are looked at one by one; of a thousand that somebody else submits, one list of the newest is enough.
async function introduce() {
  const met = [...unknown.keys()];
  await (met.length > FEW ? refresh() : Promise.all(met.map((id) => look(id).catch(() => {})))).catch(() => {});
  for (const id of met) {
    const events = unknown.get(id);
    unknown.delete(id);
    if (state.jobs.has(id)) events.forEach(heard);
  }
  if (unknown.size) setTimeout(introduce, MEET_MS);
}

const HEARD = {
  queued: (job, { position }) => { job.position = position; },
  started: (job, { request, device, attempt }) => {
    Object.assign(job, { state: "running", request: { ...job.request, ...request }, device, attempt, position: null, waits_for: null });
    job.progress ||= { phase: null, step: 0, total: 0, image: 0, eta_s: null };
  },
  phase: (job, { phase, attempt }) => { drawing(job, attempt); job.progress = { ...job.progress, phase }; },
  progress: (job, { step, total, image, eta_s, attempt }) => {
    drawing(job, attempt);
    job.progress = { ...job.progress, step, total, image, eta_s };
  },
  preview: (job, { image, data, mime, step, total, attempt }) => {
    drawing(job, attempt);
    if (data) job.previews[image] = { url: `data:${mime};base64,${data}`, step, total };
  },
  warning: (job, { code, message }) => {
    if (!job.warnings.some((one) => one.message === message)) job.warnings = [...job.warnings, { code, message }];
  },
  image: (job, event) => {
    const picture = event.image ? { ...event.image } : event;
    if (!job.images.some((one) => one.index === picture.index)) {
      job.images = [...job.images, { ...picture, url: event.url, state: "stored" }].sort((a, b) => a.index - b.index);
    }
  },
  requeued: (job) => { Object.assign(job, { state: "queued", progress: null }); },
  completed: (job, { images, timings, at }) => { Object.assign(job, { state: "completed", images, timings, finished_at: at, progress: null }); },
  failed: (job, { images, error, at }) => { Object.assign(job, { state: "failed", images, error, finished_at: at, progress: null }); },
  cancelled: (job, { images, at }) => { Object.assign(job, { state: "cancelled", images, finished_at: at, progress: null }); },
};

// Only a job that is drawn says how far it is, whatever was heard of it before.
function drawing(job, attempt) {
  Object.assign(job, { state: "running", attempt, position: null });
}

// Seconds of drawing that were seen for a model, its middle one: what the next picture will take, about.
export function speed(name) {
  const seen = [...state.jobs.values()]
    .filter((job) => job.state === "completed" && job.request.model === name && job.timings.total)
    .map((job) => worked(job.timings) / Math.max(1, job.request.n || 1))
    .sort((a, b) => a - b);
  return seen.length ? seen[Math.floor(seen.length / 2)] : null;
}
