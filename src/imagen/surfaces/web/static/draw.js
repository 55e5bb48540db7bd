// The first view: a picture in the middle, what was drawn before beside it, the words below.

import { easel } from "./easel.js";
import { form } from "./form.js";
import { h, toast } from "./dom.js";
import { picture } from "./api.js";
import { go } from "./router.js";
import { ended, keep, newest, on, state } from "./store.js";
import * as viewer from "./viewer.js";
import * as words from "./words.js";

const STRIP = 40; // jobs; the gallery has them all
const COMING = 8; // of those that wait or are drawn: a hundred of somebody else's would hide what is there
const STAGE = "imagen.stage";
const THUMB = 320;

export function draw(root) {
  const stage = h("div", { class: "stage" });
  const strip = h("nav", { class: "strip", "aria-label": "Drawn before" });
  const thumbs = new Map();
  let shown = null;

  const sheet = form({
    compared: (series) => go(`/imagine/series/${series.id}`),
    submitted(asked, answer) {
      // The frame stands before the server has answered; nothing moves when it does.
      const asking = { id: "", state: "queued", request: asked, images: [], previews: {}, warnings: [], progress: null, position: null };
      const place = put(asking);
      answer.then((job) => {
        const real = keep(job);
        if (shown === place) { place.adopt(real); remember(real.id); }
        paint();
      }, (no) => {
        if (shown === place) place.refuse(no);
        else toast(no.message, no.hint);
      });
    },
  });

  function put(job) {
    shown?.close();
    shown = easel(job, { opened: open, using: (old) => sheet.use(old) });
    stage.replaceChildren(shown.element);
    shown.fit();
    remember(job.id);
    mark();
    return shown;
  }

  function open(job, index) {
    const list = newest().flatMap((one) => one.images.filter((image) => image.state === "stored").map((image) => ({ job: one, image })));
    const at = list.findIndex((one) => one.job.id === job.id && one.image.index === index);
    viewer.open(list, Math.max(0, at), { using: (old) => { sheet.use(old); }, drawn: (again) => put(again) });
  }

  function empty() {
    shown?.close();
    shown = null;
    stage.replaceChildren(h("div", { class: "welcome" },
      h("div", { class: "frame blank", "aria-hidden": "true" }, h("div", { class: "mist" })),
      h("h1", {}, "Say what you would like to see"),
      h("p", { class: "said" }, "It is drawn here, and you can watch it form.")));
  }

  // What a refresh shows: the picture that was looked at, or what is being drawn, or the newest one.
  function choose() {
    if (shown && (shown.job.id === "" || state.jobs.has(shown.job.id))) return;
    const jobs = newest();
    const job = state.jobs.get(remembered()) || jobs.find((one) => one.state === "running") || jobs.find((one) => one.state === "queued")
      || jobs.find((one) => one.images.some((image) => image.state === "stored"));
    if (job) put(job);
    else if (state.ready) empty();
  }

  function paint() {
    choose();
    const all = newest();
    // The running ones, then those that come next: the oldest of the waiting.
    const coming = all.filter((job) => !ended(job)).sort((a, b) => (a.state !== b.state ? (a.state === "running" ? -1 : 1) : a.id < b.id ? -1 : 1)).slice(0, COMING);
    const wanted = all.filter((job) => (ended(job) ? job.state === "failed" || job.images.some((image) => image.state === "stored") : coming.includes(job) || job.id === shown?.job.id)).slice(0, STRIP);
    const ids = new Set(wanted.map((job) => job.id));
    for (const [id, one] of thumbs) if (!ids.has(id)) { one.close(); one.element.remove(); thumbs.delete(id); }
    for (const job of wanted) if (!thumbs.has(job.id)) thumbs.set(job.id, thumb(job, () => put(state.jobs.get(job.id))));
    const order = wanted.map((job) => thumbs.get(job.id).element);
    order.forEach((element, at) => { if (strip.children[at] !== element) strip.insertBefore(element, strip.children[at] || null); });
    strip.hidden = !order.length;
    mark();
  }

  function mark() {
    for (const [id, { element }] of thumbs) {
      if (shown && shown.job.id === id) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    }
  }

  const keys = (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName) && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      sheet.focus();
    }
  };
  document.addEventListener("keydown", keys);
  stage.addEventListener("drawn", (event) => put(event.detail));
  stage.addEventListener("again", (event) => sheet.send(event.detail));
  root.replaceChildren(h("div", { class: "draw" }, h("h1", { class: "unseen" }, "Draw a picture"), stage, strip, sheet.element));
  const back = on("link", (link) => {
    const error = shown?.job.id === "" && shown.job.error;
    if (link === "online" && error?.code === "offline") shown.refuse({ ...error, message: "It was not sent", hint: "The server is back: try again" });
  });
  const off = on("jobs", paint);
  paint();
  if (matchMedia("(pointer: fine)").matches) sheet.focus();
  const asked = takeUse();
  if (asked === SEVERAL) sheet.several();
  else if (asked) sheet.use(asked);
  return () => {
    off();
    back();
    document.removeEventListener("keydown", keys);
    shown?.close();
    sheet.close();
    for (const one of thumbs.values()) one.close();
  };
}

// A job from another view whose request is to be used here, or SEVERAL: models are to be chosen for a comparison.
export const SEVERAL = "several";
let handed = null;
export const hand = (job) => { handed = job; };
function takeUse() {
  const job = handed;
  handed = null;
  return job;
}

function thumb(first, chosen) {
  const image = h("img", { alt: "", draggable: "false", loading: "lazy" });
  const ring = h("span", { class: "share", "aria-hidden": "true" });
  const element = h("button", { class: "thumb", onclick: chosen }, image, ring);
  const { width, height } = first.request;
  element.style.setProperty("--ratio", String(Math.min(2, Math.max(0.5, (width || 1) / (height || 1)))));
  let src = "";
  const show = async (url) => {
    if (url === src) return;
    src = url;
    const next = new Image();
    next.src = url;
    await next.decode().catch(() => {});
    if (src === url) image.src = url;
  };
  const update = async (job) => {
    element.dataset.state = job.state;
    element.setAttribute("aria-label", `${job.request.prompt.slice(0, 120)}: ${words.standing(job)}`);
    element.title = job.request.prompt.slice(0, 300);
    const { step = 0, total = 0 } = job.progress || {};
    ring.style.setProperty("--share", String(total ? step / total : 0));
    const done = job.images.find((one) => one.state === "stored");
    const forming = Object.values(job.previews)[0];
    if (done) show(await picture(`${done.url}?w=${THUMB}`).catch(() => ""));
    else if (forming) show(forming.url);
  };
  update(first);
  return { element, close: on(first.id, update) };
}

// What this view is to show when it is opened.
export const stage = (job) => remember(job.id);

function remember(id) {
  try { sessionStorage.setItem(STAGE, id); } catch { /* then a refresh shows the newest one */ }
}
function remembered() {
  try { return sessionStorage.getItem(STAGE); } catch { return null; }
}
