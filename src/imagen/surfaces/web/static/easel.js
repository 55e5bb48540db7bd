// Where a picture forms: the frame has its final shape from the first moment, and each preview fades over the last.

import { picture, post } from "./api.js";
import { h, icon, say, set, toast } from "./dom.js";
import { ended, keep, look, on, state, title } from "./store.js";
import * as words from "./words.js";

const FADE_MS = 400; // at most
const BLUR_PX = 9; // of the first preview; it sharpens as the steps pass
const ASK_MS = 3000; // as often as a worker says that it is alive
const SMALLEST_PX = 440; // a picture of 64 pixels is still looked at

// One picture's place. show() may be called faster than pictures decode: the newest wins, and none goes backwards.
export class Frame {
  constructor(width, height, alt) {
    this.alt = alt;
    this.element = h("div", { class: "frame" }, h("div", { class: "mist" }));
    this.wanted = null;
    this.busy = false;
    this.final = false;
    this.shape(width, height);
  }

  shape(width, height) {
    this.element.style.setProperty("--ratio", String(width / height));
    this.element.style.setProperty("--cap", `${Math.max(width * 2, SMALLEST_PX * Math.min(1, width / height))}px`);
  }

  // There will be no picture here, or no more: a frame that says so and does not look as if one were coming.
  lose(words) {
    this.wanted = null;
    this.final = true;
    this.element.classList.add("lost");
    this.element.dataset.words = words;
    for (const part of this.element.querySelectorAll(".layer, .look")) part.remove();
  }

  show(url, focus = 1, final = false) {
    if (this.final || url === this.shown || url === this.wanted?.url) return;
    this.wanted = { url, focus, final };
    if (!this.busy) this.work();
  }

  async work() {
    this.busy = true;
    while (this.wanted) {
      const { url, focus, final } = this.wanted;
      this.wanted = null;
      const image = h("img", { alt: final ? this.alt : "", draggable: final ? null : "false" });
      image.src = url;
      try {
        await image.decode(); // only what is whole is shown, so nothing flickers
      } catch {
        if (final) this.lose("This picture cannot be shown");
        continue;
      }
      if (this.final) break;
      this.shown = url;
      this.final = final;
      image.className = final ? "layer final" : "layer";
      image.style.setProperty("--blur", `${(BLUR_PX * (1 - focus)).toFixed(1)}px`);
      // A quick model sends its next preview before a slow fade is over, and would never be seen.
      const now = performance.now();
      image.style.setProperty("--fade", `${Math.round(Math.min(FADE_MS, Math.max(120, now - (this.at ?? 0) - 20)))}ms`);
      this.at = now;
      const under = [...this.element.querySelectorAll(".layer")];
      this.element.append(image);
      image.getBoundingClientRect(); // the browser has to see it clear before it fades in
      image.classList.add("in");
      setTimeout(() => under.forEach((layer) => layer.remove()), FADE_MS + 50);
    }
    this.busy = false;
  }
}

// All pictures of a job, and one line about how it stands. `opened(job, index)` is called when one is looked at.
export function easel(first, { opened, using }) {
  const frames = h("div", { class: "frames" });
  const line = h("p", { class: "standing" });
  const sub = h("p", { class: "said" });
  // What was not done as asked, however much that is, takes one word of room; Enter or a press shows it.
  const [noted, list] = [h("summary"), h("ul")];
  const notes = h("details", { class: "notes" }, noted, list);
  const bar = h("div", { class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, h("span"));
  const acts = h("div", { class: "acts" });
  const element = h("section", { class: "easel", "aria-label": "The picture" }, frames,
    h("div", { class: "caption" }, h("div", { class: "words" }, line, h("div", { class: "below" }, sub, notes)), acts, bar));
  let job = first;
  let places = [];
  let off = () => {};
  let drawn = "";

  const fit = () => arrange(frames, places);
  const resized = new ResizeObserver(fit);
  resized.observe(frames);

  function begin() {
    const { width, height, n, prompt } = job.request;
    const count = Math.max(n || 1, 1);
    if (places.length !== count) {
      places = Array.from({ length: count }, (_, index) => new Frame(width || 1, height || 1, count > 1 ? `${prompt}, ${index + 1} of ${count}` : prompt));
      frames.replaceChildren(...places.map((place) => place.element));
    }
    places.forEach((place) => width && place.shape(width, height));
    fit();
  }

  function update(now) {
    job = now;
    begin();
    element.dataset.job = job.id;
    element.dataset.state = job.state;
    const { step = 0, total = 0 } = job.progress || {};
    for (const [at, preview] of Object.entries(job.previews || {})) {
      places[at]?.show(preview.url, preview.total ? preview.step / preview.total : 0.5);
    }
    for (const image of job.images || []) finish(places[image.index], image);
    if (ended(job)) {
      const there = new Set((job.images || []).map((image) => image.index));
      places.forEach((place, at) => { if (!there.has(at)) place.lose("Not drawn"); });
    }
    const share = ended(job) ? 1 : total ? step / total : 0;
    bar.firstChild.style.setProperty("--share", String(share));
    set(bar, "aria-valuenow", String(Math.round(share * 100)));
    set(bar, "aria-valuetext", `${words.standing(job)} ${words.steps(job)}`.trim());
    set(bar, "hidden", ended(job));
    // While it is drawn its words stand below; afterwards others may.
    const done = job.state === "completed";
    line.textContent = done ? job.request.prompt : words.standing(job);
    line.title = job.request.prompt.slice(0, 600);
    line.dir = done ? "auto" : "";
    sub.textContent = about(job);
    const { warnings } = job;
    set(notes, "hidden", !warnings.length);
    noted.textContent = words.count(warnings.length, "note");
    if (list.childElementCount !== warnings.length) list.replaceChildren(...warnings.map((one) => h("li", { dir: "auto" }, words.sentence(one.message))));
    element.classList.toggle("waiting", !ended(job));
    if (drawn !== job.state + job.id) {
      if (drawn && ended(job)) say(`${words.standing(job)}. ${job.error ? job.error.message : ""}`, { now: true });
      drawn = job.state + job.id;
      acts.replaceChildren(...actions());
    }
    if (job.state === "running") say(`${words.standing(job)}, ${words.steps(job)}`);
  }

  async function finish(place, image) {
    if (place && image.state !== "stored") place.lose("This picture was deleted");
    if (!place || place.asked || image.state !== "stored") return;
    place.asked = true;
    try {
      place.show(await picture(image.url), 1, true);
    } catch {
      place.asked = false;
      return;
    }
    place.element.append(h("button", {
      class: "look", "aria-label": `Look at it: ${place.alt}`, onclick: () => opened(job, image.index),
    }));
  }

  function actions() {
    if (!state.jobs.has(job.id)) {
      // It never came to the server, or was refused there.
      if (!job.error?.retryable) return [];
      return [h("button", { class: "quiet", onclick: () => element.dispatchEvent(new CustomEvent("again", { bubbles: true, detail: job.request })) }, icon("again"), "Try again")];
    }
    if (!ended(job)) {
      const button = h("button", { class: "quiet", onclick: () => stop(button, job.id) }, "Cancel");
      return [button];
    }
    const reuse = h("button", { class: "quiet", onclick: () => using(job) }, icon("use"), "Use again");
    if (job.state === "completed") return [reuse];
    return [reuse, h("button", { class: "quiet", onclick: () => retry(job.id) }, icon("again"), "Try again")];
  }

  async function retry(id) {
    try {
      const again = keep(await post(`/v1/jobs/${id}/retry`));
      element.dispatchEvent(new CustomEvent("drawn", { bubbles: true, detail: again }));
    } catch (no) {
      toast(no.message, no.hint);
    }
  }

  // What is in the way of a job comes and goes without an event of the job's own.
  const asking = setInterval(() => {
    if (job.state === "queued" && state.jobs.has(job.id) && !document.hidden) look(job.id).catch(() => {});
  }, ASK_MS);

  update(first);
  if (state.jobs.has(first.id)) off = on(first.id, update);
  return {
    element,
    get job() { return job; },
    fit, // once it stands in the page; after that it looks after itself
    // The server has answered: the frame that stands there already is this job's.
    adopt(real) {
      off();
      off = on(real.id, update);
      update(real);
    },
    refuse(no) {
      update({ ...job, state: "failed", error: no });
    },
    close() {
      off();
      clearInterval(asking);
      resized.disconnect();
    },
  };
}

async function stop(button, id) {
  button.disabled = true;
  button.textContent = "Cancelling…";
  try {
    keep(await post(`/v1/jobs/${id}/cancel`));
  } catch (no) {
    button.disabled = false;
    button.textContent = "Cancel";
    toast(no.message, no.hint);
  }
}

function about(job) {
  const name = title(job.request.model);
  if (job.state === "failed") return words.failure(job.error);
  if (job.state === "cancelled") return job.request.prompt;
  if (job.state === "completed") return words.dots(`Done: ${name}`, words.seconds(job.timings.total));
  return words.steps(job) || name;
}

// As many columns as make the pictures largest.
const GAP = 12;
function arrange(frames, places) {
  const { clientWidth: width, clientHeight: height } = frames;
  if (!width || !height || !places.length) return;
  const ratio = Number(places[0].element.style.getPropertyValue("--ratio"));
  let best = { size: 0, columns: 1 };
  for (let columns = 1; columns <= places.length; columns += 1) {
    const rows = Math.ceil(places.length / columns);
    const size = Math.min((width - GAP * (columns - 1)) / columns, ((height - GAP * (rows - 1)) / rows) * ratio);
    if (size > best.size + 1) best = { size, columns };
  }
  frames.style.setProperty("--size", `${Math.floor(best.size)}px`);
  frames.style.setProperty("--columns", String(best.columns));
}
