// One picture as large as the window: zoom, what is known of it, and what can be done with it.

import { ask, download, picture, post, slug } from "./api.js";
import { h, icon, say, toast } from "./dom.js";
import { over } from "./over.js";
import { ended, forget, keep, look, model, on } from "./store.js";
import * as words from "./words.js";

const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const SURE_MS = 4000;
const STILL_PX = 4; // a hand that clicks moves as much
const ROLL_PX = 60; // of a wheel or a trackpad, for one zoom further
const LINE_PX = 30;
const PINCH = 4;
const SWIPE_PX = 48; // less is a finger that was not quite still

// `list` holds {job, image}; `more()` may make it longer. `using(job)` takes its request, `drawn(job)` shows a new job,
// `gone(image)` hears of a deleted one; `closed()`
// takes the focus back where the picture that was pressed may not exist any more.
export function open(list, at, { using, drawn = () => {}, gone = () => {}, more = () => {}, moved = () => {}, closed = null }) {
  const image = h("img", { class: "full", alt: "", draggable: "false" });
  const pane = h("div", { class: "pane", tabindex: "0", role: "group", "aria-label": "The picture; plus and minus zoom" }, image);
  const facts = h("aside", { class: "facts", "aria-label": "About this picture" });
  const left = h("button", { class: "round side left", "aria-label": "Picture before", onclick: () => step(-1) }, icon("left"));
  const right = h("button", { class: "round side right", "aria-label": "Next picture", onclick: () => step(1) }, icon("right"));
  const dialog = h("dialog", { class: "viewer", "aria-label": "Picture" },
    h("div", { class: "room" }, pane, left, right,
      h("button", { class: "round shut", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"))),
    facts);
  let zoom = 0;
  let rolled = 0;
  let turn = 0;
  let shown = null;

  async function show() {
    const mine = (turn += 1);
    shown = list[at];
    const { job, image: one } = shown;
    left.disabled = at === 0;
    right.disabled = at === list.length - 1;
    if (at > list.length - 10) more();
    moved(at);
    zoomTo(0);
    facts.replaceChildren(...about(job, one));
    image.alt = job.request.prompt;
    image.style.setProperty("--ratio", String(one.width / one.height));
    image.style.setProperty("--natural", `${one.width}px`);
    try {
      const small = await picture(`${one.url}?w=320`);
      if (mine !== turn) return;
      image.classList.remove("lost");
      image.src = small;
      const next = new Image();
      next.src = await picture(one.url);
      await next.decode();
      if (mine === turn) image.src = next.src;
    } catch (no) {
      if (mine !== turn) return;
      image.classList.add("lost");
      // It may have been deleted in another tab or by another program since it was listed.
      const now = await look(job.id).catch(() => null);
      if (now?.images.some((two) => two.id === one.id && two.state !== "stored")) toast("This picture was deleted", "It stays in the history, with what was asked");
      else toast(no.message || "The picture cannot be shown", no.hint);
    }
  }

  function step(by) {
    at = Math.max(0, list.indexOf(shown)); // newer ones may have come before it
    if (!list[at + by]) return;
    at += by;
    show();
  }

  function zoomTo(level, x = 0.5, y = 0.5) {
    zoom = Math.min(ZOOMS.length - 1, Math.max(0, level));
    pane.classList.toggle("zoomed", zoom > 0);
    image.style.setProperty("--zoom", String(ZOOMS[zoom]));
    if (zoom > 0) {
      // What was under the pointer stays under it.
      pane.scrollLeft = x * pane.scrollWidth - pane.clientWidth / 2;
      pane.scrollTop = y * pane.scrollHeight - pane.clientHeight / 2;
    }
  }
  const point = (event) => {
    const box = image.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  // A zoomed picture is moved with the pointer that zooms it: a press that went nowhere is a click.
  let grip = null;
  let dragged = false;
  pane.addEventListener("pointerdown", (event) => {
    dragged = false;
    if (!zoom || event.pointerType === "touch" || event.button) return; // a finger scrolls by itself
    grip = { x: event.clientX + pane.scrollLeft, y: event.clientY + pane.scrollTop, from: [event.clientX, event.clientY] };
    pane.setPointerCapture(event.pointerId);
  });
  pane.addEventListener("pointermove", (event) => {
    if (!grip) return;
    if (Math.hypot(event.clientX - grip.from[0], event.clientY - grip.from[1]) > STILL_PX) dragged = true;
    pane.scrollLeft = grip.x - event.clientX;
    pane.scrollTop = grip.y - event.clientY;
  });
  for (const end of ["pointerup", "pointercancel"]) pane.addEventListener(end, () => { grip = null; });
  pane.addEventListener("click", (event) => {
    const on = document.elementsFromPoint(event.clientX, event.clientY).includes(image); // captured, it is the pane's
    if (on && !dragged) zoomTo(zoom ? 0 : 2, ...point(event));
  });
  // A finger goes on to the next picture; in a zoomed one it moves about.
  let touch = null;
  pane.addEventListener("touchstart", ({ touches }) => { touch = touches.length === 1 && !zoom ? touches[0] : null; }, { passive: true });
  pane.addEventListener("touchend", ({ changedTouches: [end] }) => {
    if (!touch) return;
    const [x, y] = [end.clientX - touch.clientX, end.clientY - touch.clientY];
    if (Math.abs(x) > SWIPE_PX && Math.abs(x) > 2 * Math.abs(y)) step(x < 0 ? 1 : -1);
    touch = null;
  });
  pane.addEventListener("wheel", (event) => {
    event.preventDefault();
    // A trackpad tells of one movement in many small parts, two fingers that spread in even smaller ones.
    rolled += event.deltaY * (event.deltaMode ? LINE_PX : 1) * (event.ctrlKey ? PINCH : 1);
    if (Math.abs(rolled) < ROLL_PX) return;
    zoomTo(zoom - Math.sign(rolled), ...point(event));
    rolled = 0;
  }, { passive: false });
  dialog.addEventListener("keydown", (event) => {
    const act = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1),
      "+": () => zoomTo(zoom + 1), "=": () => zoomTo(zoom + 1), "-": () => zoomTo(zoom - 1), 0: () => zoomTo(0),
    }[event.key];
    if (!act || (zoom && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    act();
  });

  function about(job, one) {
    const { request } = job;
    const name = model(request.model);
    const rows = [
      ["Model", name?.title || request.model],
      ["Licence", name?.licence],
      ["Size", `${one.width} × ${one.height}`],
      ["Seed", String(one.seed)],
      ["Steps", request.steps],
      ["Guidance", name?.ignores.includes("guidance") ? null : request.guidance],
      ["Not", request.negative],
      ...Object.entries(request.options || {}).filter(([key, value]) => name?.options[key]?.default !== value).map(([key, value]) => [key.replaceAll("_", " "), String(value)]),
      ["Took", job.timings?.total ? `${words.seconds(job.timings.total)}${request.n > 1 ? ` for all ${request.n}` : ""} (${words.timings(job.timings, { waiting: false })})` : null],
      ["Waited", job.timings?.queue >= 1 ? words.seconds(job.timings.queue) : null],
      ["Drawn", words.when(job.finished_at || job.created_at)],
      ...job.warnings.map((told) => ["Note", words.sentence(told.message)]),
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    const button = (name, label, run) => h("button", { class: "quiet", onclick: run }, icon(name), label);
    return [
      h("p", { class: "prompt", dir: "auto" }, request.prompt),
      h("div", { class: "doing" },
        button("use", "Use again", () => leave(() => using(job))),
        button("copy", "Copy words", () => copy(request.prompt)),
        button("again", "Reproduce", () => reproduce(job, one)),
        button("save", "Download", () => download(one.url, `${slug(request.prompt)}-${one.seed}`).catch((no) => toast(no.message, no.hint))),
        erase(one)),
      h("dl", {}, rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", { dir: "auto" }, String(value))))),
    ];
  }

  async function reproduce(job, one) {
    try {
      const again = keep(await post(`/v1/jobs/${job.id}/retry`));
      const begun = toast("It is drawn once more", "", { kind: "good" });
      const seen = { label: "Look at it", run: () => (dialog.open ? leave(() => drawn(again)) : drawn(again)) };
      const off = on(again.id, (now) => {
        if (!ended(now)) return;
        off();
        begun();
        const new_ = now.images.find((two) => two.index === one.index);
        if (!new_) return;
        if (new_.pixels_sha256 === one.pixels_sha256) toast("The same picture, pixel by pixel", "", { kind: "good", action: seen });
        else toast("It is not the same", "The model, its files or its engine have changed since", { kind: "good", action: seen });
      });
    } catch (no) {
      toast(no.message, no.hint);
    }
  }

  // Asked twice and not in a window of its own: the second press is the answer.
  function erase(one) {
    let sure = 0;
    const label = document.createTextNode("Delete");
    const button = h("button", { class: "quiet danger", onclick: async () => {
      if (!sure) {
        label.data = "Really delete?";
        sure = setTimeout(() => { sure = 0; label.data = "Delete"; }, SURE_MS);
        return;
      }
      clearTimeout(sure);
      try {
        await ask("DELETE", `/v1/images/${one.id}`);
      } catch (no) {
        toast(no.message, no.hint);
        return;
      }
      say("Deleted", { now: true });
      const { job } = shown;
      at = Math.max(0, list.indexOf(shown));
      list.splice(at, 1);
      gone(one);
      look(job.id).then((now) => { if (now.images.every((two) => two.state !== "stored")) forget(now.id); }, () => {});
      if (!list.length) { dialog.close(); return; }
      at = Math.min(at, list.length - 1);
      show();
    } }, icon("bin"), label);
    return button;
  }

  dialog.addEventListener("close", () => { turn += 1; });
  const leave = over(dialog, pane, closed);
  show();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Where the page came by plain HTTP there is no clipboard; a selection can be copied everywhere.
    const box = h("textarea", { value: text, class: "unseen" });
    (document.querySelector("dialog[open]") || document.body).append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  toast("Copied", "", { kind: "good" });
}
