// Two pictures without names: which is better? The names are told after the vote, and a vote is final.

import { get, picture, post } from "./api.js";
import { h, say, toast } from "./dom.js";
import { model, models, state } from "./store.js";

const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", t: "tie", s: "skip" };

export function vote(root, id) {
  const progress = h("p", { class: "said", role: "status" });
  const heading = h("h1", { dir: "auto" }, "Which is better?");
  const pair = h("div", { class: "pair-of" });
  const acts = h("div", { class: "doing" });
  root.replaceChildren(h("div", { class: "compare vote" }, h("div", { class: "about" }, heading, progress), pair, acts,
    h("p", { class: "said keys" }, "Keys: 1 left, 2 right, T equal, S skip")));
  let ballot = null;
  let begun = null; // the round in which somebody sat down: its end is an end
  let waiting = false; // an answer is under way, or the names are being looked at
  let closed = false;

  async function next() {
    try {
      const told = await get(`/v1/series/${id}/pairs`);
      if (closed) return;
      begun ??= told.round;
      ballot = told;
      if (!told.pair) finish("There is nothing to vote on yet", "Two models have to have drawn the same first.");
      else if (told.round > begun) finish("Every pair is voted on", "Thank you. Another round makes the ratings surer.", true);
      else await show();
    } catch (no) {
      if (!closed) finish(no.message, no.hint || "");
    }
  }

  async function show() {
    const { prompt, left, right } = ballot.pair;
    heading.textContent = prompt;
    progress.textContent = `Pair ${ballot.done + 1} of ${ballot.total}`;
    const sides = [["left", left, "1"], ["right", right, "2"]].map(([name, side, key]) => h("button", {
      type: "button", class: "side-of", "data-side": name, "aria-keyshortcuts": key, "aria-label": `The ${name} one is better`, onclick: () => cast(name),
    }, h("span", { class: "frame", "data-ratio": String(side.width / side.height) }, h("span", { class: "mist" }), h("img", { alt: "", class: "layer final" })), h("b", { class: "who" })));
    for (const side of sides) {
      const frame = side.querySelector(".frame");
      frame.style.setProperty("--ratio", frame.dataset.ratio);
    }
    pair.replaceChildren(...sides);
    acts.replaceChildren(
      h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "t", onclick: () => cast("tie") }, "Equally good"),
      h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "s", onclick: () => cast("skip") }, "Skip"));
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
      if (choice === "skip") next();
      else reveal(told);
    } catch (no) {
      waiting = false;
      if (no.status === 409) next(); // voted on in another tab
      else toast(no.message, no.hint);
    }
  }

  function reveal(told) {
    for (const name of ["left", "right"]) {
      const side = pair.querySelector(`[data-side="${name}"]`);
      side.querySelector(".who").textContent = title(told[name].model);
      side.classList.toggle("better", told.choice === name);
      side.disabled = true;
    }
    const better = told.choice === "tie" ? "Equal" : `Better: ${title(told[told.choice].model)}`;
    say(`${better}. Left was ${title(told.left.model)}, right ${title(told.right.model)}`, { now: true });
    const on = h("button", { type: "button", class: "go", onclick: () => next() }, "Next pair");
    acts.replaceChildren(on);
    on.focus();
  }

  function finish(words, hint, again = false) {
    waiting = true;
    heading.textContent = words;
    progress.textContent = hint;
    pair.replaceChildren();
    acts.replaceChildren(...[
      h("a", { class: "quiet", href: "/imagine/ratings" }, "Ratings"),
      h("a", { class: "quiet", href: `/imagine/series/${id}` }, "Back to the comparison"),
      again ? h("button", { type: "button", class: "quiet", onclick: () => { begun = null; next(); } }, "Another round") : null,
    ].filter(Boolean));
  }

  const keys = (event) => {
    const choice = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!choice || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    event.preventDefault();
    cast(choice);
  };
  document.addEventListener("keydown", keys);
  (state.models.length ? Promise.resolve() : models().catch(() => {})).then(next);
  return () => {
    closed = true;
    document.removeEventListener("keydown", keys);
  };
}

const title = (name) => model(name)?.title || name;
