// Two pictures without names: which is better? The names are told after the vote, and a vote is final.

import { get, picture, post } from "./api.js";
import { clamped, h, icon, toast } from "./dom.js";
import { over } from "./over.js";
import { haveModels, title } from "./store.js";

const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", t: "tie", s: "skip" };

const WIDE = 1.2;

const KEYS_SAID = "Keys: 1 left, 2 right, T equal, S skip";

export function vote(root, id) {
  const progress = h("p", { class: "said", role: "status" });
  const heading = h("h1", { dir: "auto" }, "Which is better?");
  const pair = h("div", { class: "pair-of" });
  const acts = h("div", { class: "doing" });
  const known = h("p", { class: "said keys" }, KEYS_SAID);
  root.replaceChildren(h("div", { class: "compare vote" }, h("div", { class: "about" }, h("div", {}, clamped(heading)), progress), pair, acts, known));
  let ballot = null;
  let begun = null; // the round in which somebody sat down: its end is an end
  let again = false; // somebody asked for another round
  let skipped = 0;
  let waiting = false; // an answer is under way, or the names are being looked at
  let closed = false;

  async function next() {
    try {
      const told = await get(`/v1/series/${id}/pairs`);
      if (closed) return;
      ballot = told;
      // A round that nothing was said in yet is offered and not begun: whoever comes back has done the one before.
      const fresh = begun === null && told.round > 1 && !told.done && !again;
      begun ??= told.round;
      if (!told.pair) finish("There is nothing to vote on yet", "Two models have to have drawn the same first.");
      else if (fresh) finish("You have voted on every pair", "Another round makes the ratings surer.", true);
      else if (told.round > begun) finish(skipped ? "Every pair is voted on or skipped" : "Every pair is voted on", "Thank you. Another round makes the ratings surer.", true);
      else await show();
    } catch (no) {
      if (!closed) finish(no.status === 404 ? "There is no such comparison" : no.message, no.status === 404 ? "" : no.hint);
    }
  }

  // Wide pictures are one under the other on a phone.
  const stacked = () => pair.classList.contains("wide") && matchMedia("(max-width: 720px)").matches;
  const called = () => (stacked() ? { left: "upper", right: "lower" } : { left: "left", right: "right" });

  async function show() {
    const { prompt, left, right } = ballot.pair;
    heading.textContent = prompt;
    progress.textContent = `Pair ${ballot.done + 1} of ${ballot.total}`;
    known.hidden = false;
    known.textContent = KEYS_SAID;
    pair.classList.toggle("wide", [left, right].every((side) => side.width > side.height * WIDE));
    const sides = [["left", left, "1"], ["right", right, "2"]].map(([name, side, key]) => h("div", { class: "side-of", "data-side": name },
      h("button", { class: "pick", "aria-keyshortcuts": key, "aria-label": `The ${called()[name]} one is better`, onclick: () => cast(name) },
        h("span", { class: "frame", "data-ratio": String(side.width / side.height) }, h("span", { class: "mist" }), h("img", { alt: "", class: "layer final" }))),
      h("button", { class: "round closer", "aria-label": `Look closely at the ${called()[name]} one`, onclick: () => closer([left, right], name === "left" ? 0 : 1, called()) }, icon("large")),
      h("b", { class: "who" })));
    for (const side of sides) {
      const frame = side.querySelector(".frame");
      frame.style.setProperty("--ratio", frame.dataset.ratio);
    }
    pair.replaceChildren(...sides);
    acts.replaceChildren(
      h("button", { class: "quiet", "aria-keyshortcuts": "t", onclick: () => cast("tie") }, "Equally good"),
      h("button", { class: "quiet", "aria-keyshortcuts": "s", onclick: () => cast("skip") }, "Skip"));
    // Both at once: who is quicker to load is no better for it.
    const images = sides.map((side) => side.querySelector("img"));
    await Promise.all([left, right].map(async ({ url }, at) => {
      images[at].src = await picture(url);
      await images[at].decode();
    })).catch((no) => no.hint && toast(no.message, no.hint));
    images.forEach((image) => image.classList.add("in"));
    waiting = false;
  }

  async function cast(choice) {
    if (waiting || !ballot?.pair) return;
    waiting = true;
    const { round, pair: { left, right } } = ballot;
    try {
      const told = await post(`/v1/series/${id}/votes`, { left: left.id, right: right.id, round, choice });
      if (choice !== "skip") {
        reveal(told);
        return;
      }
      skipped += 1;
      next();
    } catch (no) {
      waiting = false;
      if (no.status === 409) next(); // voted on in another tab
      else toast(no.message, no.hint);
    }
  }

  function reveal(told) {
    known.textContent = "Enter: the next pair";
    for (const name of ["left", "right"]) {
      const side = pair.querySelector(`[data-side="${name}"]`);
      side.querySelector(".who").textContent = title(told[name].model);
      side.classList.toggle("better", told.choice === name);
      side.querySelector(".pick").disabled = true;
    }
    const { left, right } = called();
    const better = told.choice === "tie" ? "Equal" : `Better: ${title(told[told.choice].model)}`;
    progress.replaceChildren(h("b", {}, better), ` · ${left}: ${title(told.left.model)} · ${right}: ${title(told.right.model)}`);
    const on = h("button", { class: "go", onclick: () => next() }, "Next pair");
    acts.replaceChildren(on);
    on.focus();
  }

  function finish(said, hint, more = false) {
    waiting = true;
    known.hidden = true;
    heading.textContent = said;
    progress.textContent = hint;
    pair.replaceChildren();
    acts.replaceChildren(...[
      h("a", { class: "quiet", href: "/imagine/ratings" }, "Ratings"),
      h("a", { class: "quiet", href: `/imagine/series/${id}` }, "Back to the comparison"),
      more ? h("button", { class: "quiet", onclick: () => { begun = null; again = true; skipped = 0; next(); } }, "Another round") : null,
    ].filter(Boolean));
  }

  const keys = (event) => {
    const choice = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!choice || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    event.preventDefault();
    cast(choice);
  };
  document.addEventListener("keydown", keys);
  haveModels().then(next);
  return () => {
    closed = true;
    document.removeEventListener("keydown", keys);
  };
}

// One of two pictures as large as the window, and the other in the same place: still without names.
async function closer(sides, at, called) {
  const image = h("img", { class: "full", alt: "", draggable: "false", onclick: () => pane.classList.toggle("zoomed") });
  const pane = h("div", { class: "pane", tabindex: "0", role: "group", "aria-label": "The picture" }, image);
  const which = h("b", { class: "tag left", role: "status" });
  const dialog = h("dialog", { class: "closer", "aria-label": "A closer look" }, h("div", { class: "room" }, pane, which,
    h("button", { class: "round shut", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")),
    h("button", { class: "quiet other", onclick: () => turn() }, "The other one")));
  const urls = await Promise.all(sides.map(({ url }) => picture(url))).catch(() => null);
  if (!urls) return;
  const turn = (to = 1 - at) => {
    at = to;
    image.src = urls[at];
    image.style.setProperty("--ratio", String(sides[at].width / sides[at].height));
    image.style.setProperty("--natural", `${sides[at].width}px`);
    image.style.setProperty("--zoom", "2.5");
    which.textContent = called[at ? "right" : "left"];
  };
  dialog.addEventListener("keydown", (event) => { if (event.key === "ArrowLeft" || event.key === "ArrowRight") { event.preventDefault(); turn(); } });
  over(dialog, pane);
  turn(at);
}
