// What is asked for: the words, the model, the shape, and only those settings that the chosen model has.

import { once, post } from "./api.js";
import { h, icon, outline, set, toast } from "./dom.js";
import { number, optionField } from "./fields.js";
import { picker } from "./picker.js";
import { allowed, sizes, together } from "./shapes.js";
import { haveModels, model, models, newest, on, state } from "./store.js";
import * as words from "./words.js";

const KEPT = "imagen.form";
const EMPTY = { prompt: "", negative: "", model: null, shape: null, width: null, height: null, steps: null, guidance: null, seed: "", locked: false, n: 1, options: {}, several: null };

const MOST_SEEDS = 8; // of a comparison: so many rows can still be looked at

// `submitted(request, answer)`: what is asked for, at once, and a promise of the job. `compared(series)`: one is drawn.
export function form({ submitted, compared }) {
  const told = { ...structuredClone(EMPTY), ...kept() };
  const remember = () => {
    try { sessionStorage.setItem(KEPT, JSON.stringify(told)); } catch { /* then a refresh forgets it */ }
  };
  const chosen = () => model(told.model) || state.models.find((one) => one.default && one.available) || state.models.find((one) => one.available) || state.models.find((one) => one.default);

  const prompt = h("textarea", { id: "prompt", rows: "1", dir: "auto", maxlength: "100000", placeholder: "Describe a picture", "aria-label": "What would you like to see?", autocomplete: "off", enterkeyhint: "go", value: told.prompt });
  const draw = h("button", { type: "submit", class: "go" }, "Draw");
  const chips = h("div", { class: "chips" });
  const panel = h("div", { class: "panel", id: "panel", tabindex: "-1", hidden: true });
  const element = h("form", { class: "dock", autocomplete: "off", "aria-label": "Draw a picture", onsubmit: submit },
    panel, h("div", { class: "ask" }, prompt, draw), chips);

  const grow = () => {
    prompt.style.height = "auto";
    prompt.style.height = `${Math.min(prompt.scrollHeight, 180)}px`;
  };
  prompt.addEventListener("input", () => { told.prompt = prompt.value; ready(); grow(); remember(); });
  prompt.addEventListener("keydown", (event) => {
    // Enter draws, as in a conversation; while somebody composes a character it belongs to the keyboard.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); element.requestSubmit(); }
  });
  const few = () => told.several !== null && told.several.length < 2;
  const ready = () => set(draw, "disabled", !told.prompt.trim() || few());

  // One panel at a time, above the words; its chip says that it is open.
  let open = null;
  let blank = false;
  let size = null; // the one that its chip shows
  const panels = { model: modelPanel, shape: shapePanel, more: morePanel };
  function toggle(name) {
    open = open === name ? null : name;
    blank = !state.models.length;
    panel.replaceChildren(...(open ? [panels[open]()].flat() : []));
    set(panel, "hidden", !open);
    paint();
    if (!open) return;
    panel.scrollTop = 0;
    panel.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
    const first = panel.querySelector('input[type="search"]:not([hidden])') || panel.querySelector("[data-first]") || panel.querySelector("input, button, select, textarea");
    // On a phone a focused field brings up the keyboard, which covers what was just opened.
    if (!first?.matches("input, textarea") || matchMedia("(pointer: fine)").matches) first?.focus();
    else panel.focus();
  }
  function shut(focus = true) {
    const name = open;
    if (!name) return;
    toggle(name);
    if (focus) chips.querySelector(`[data-panel="${name}"]`)?.focus();
  }
  element.addEventListener("keydown", (event) => { if (event.key === "Escape" && open) { event.stopPropagation(); shut(); } });
  const outside = (event) => { if (open && !element.contains(event.target)) shut(false); };
  document.addEventListener("pointerdown", outside);

  function paint() {
    const one = chosen();
    const focused = document.activeElement?.dataset?.chip;
    draw.textContent = told.several ? "Compare" : "Draw";
    ready();
    const sides = shape(drawers());
    if (!sides || allowed(drawers(), ...sides)) size = sides; // what is half typed is no size yet
    chips.replaceChildren(
      ...(told.several ? [
        chip("model", few() ? "Tick at least two" : words.count(told.several.length, "model"), { label: "Models" }),
        h("button", { class: "chip solo", "data-chip": "one", "aria-label": "Only one", onclick: () => { shut(false); severally(null); prompt.focus(); } }, icon("close"), h("span", { class: "text" }, "Only one")),
      ] : [chip("model", one ? one.title : state.ready ? "No model" : "…", { label: "Model", dot: one && (one.available ? (one.loaded ? "warm" : null) : "away") })]),
      chip("shape", size ? size.join(" × ") : told.several ? "Each its own" : "Shape", { label: "Shape", before: size && outline(...size) }),
      told.several ? counter(null, MOST_SEEDS) : counter(one),
      seed(),
      chip("more", "More", { label: "More settings", before: icon("more"), marked: changed() }),
    );
    if (focused) chips.querySelector(`[data-chip="${focused}"]`)?.focus();
  }

  function chip(name, text, { label, before, dot, marked }) {
    return h("button", {
      class: `chip${marked ? " marked" : ""}`, "data-panel": name, "data-chip": name,
      "aria-expanded": String(open === name), "aria-controls": "panel", onclick: () => toggle(name),
    }, before, dot ? h("span", { class: `dot ${dot}`, "aria-hidden": "true" }) : null, h("span", { class: "unseen" }, `${label}: `), h("span", { class: "text" }, text), name === "model" ? icon("down") : null);
  }

  // A button at the end of its way keeps the keyboard, which a disabled one would lose.
  function counter(one, limit = 16) {
    const most = one ? Math.max(1, Math.min(one.limits.n, limit)) : limit;
    told.n = Math.min(Math.max(1, told.n), most);
    const change = (by) => { told.n = Math.min(most, Math.max(1, told.n + by)); remember(); paint(); };
    return h("div", { class: "chip count", role: "group", "aria-label": one ? "How many pictures" : "How many seeds" },
      h("button", { "data-chip": "less", "aria-label": "One fewer", "aria-disabled": String(told.n <= 1), onclick: () => change(-1) }, "−"),
      h("output", {}, `×${told.n}`),
      h("button", { "data-chip": "plus", "aria-label": "One more", "aria-disabled": String(told.n >= most), onclick: () => change(1) }, "+"));
  }

  function seed() {
    const input = h("input", { type: "text", inputmode: "numeric", pattern: "[0-9]*", maxlength: "15", placeholder: "random", "aria-label": "Seed; empty is a random one", value: told.seed, "data-chip": "seed", oninput: () => {
      input.value = input.value.replace(/\D/g, "");
      told.seed = input.value;
      told.locked = Boolean(told.seed);
      set(lock, "aria-pressed", String(told.locked));
      remember();
    } });
    const lock = h("button", { "data-chip": "lock", "aria-pressed": String(told.locked), "aria-label": "Keep the seed", title: "Keep the seed of the last picture", onclick: () => {
      told.locked = !told.locked;
      const last = newest().find((job) => job.request.seed !== null);
      told.seed = told.locked ? told.seed || String(last ? last.request.seed : Math.floor(Math.random() * 2 ** 32)) : "";
      remember();
      paint();
    } }, icon(told.locked ? "lock" : "open"));
    return h("div", { class: `chip seed${told.locked ? " marked" : ""}` }, h("span", { "aria-hidden": "true" }, "Seed"), input, lock);
  }

  function modelPanel() {
    models().catch(() => {}); // a folder that was added a moment ago is there when somebody looks
    return picker({
      chosen: chosen(),
      several: told.several,
      pick: (one) => { told.model = one.name; told.steps = told.guidance = null; fitShape(one); remember(); shut(); paint(); },
      pickSeveral: severally,
    });
  }

  function fitShape(one) {
    if (told.shape === "own" && !(one && allowed(one, told.width, told.height))) told.shape = null;
  }

  function severally(names) {
    told.several = names;
    fitShape(drawers());
    remember();
    paint();
  }

  // Whose sizes are offered: the model's, or what all of those that are compared draw.
  function drawers() {
    if (!told.several) return chosen();
    const ticked = told.several.map(model).filter(Boolean);
    return ticked.length ? together(ticked) : null;
  }

  // The size that is asked for, as it was typed; null is each model's own, where several are compared.
  function shape(one) {
    if (!one) return null;
    if (told.shape === "own" && (allowed(one, told.width, told.height) || !one.limits.sizes.length)) return [told.width, told.height];
    const found = told.shape && sizes(one).find(([, , name]) => name === told.shape);
    return found ? found.slice(0, 2) : told.several ? null : [one.defaults.width, one.defaults.height];
  }

  function shapePanel() {
    const one = drawers();
    if (!one) return h("p", { class: "said" }, told.several ? "There is no size that all of these draw: each draws its own" : "There is no model to draw with");
    const asked = shape(one);
    const now = asked?.join(" × ") || "";
    const tile = (name, size, drawing) => h("button", {
      class: "tile", "data-size": size, "aria-pressed": String(now === size), "data-first": now === size ? true : null,
      onclick: () => { told.shape = size && name; remember(); shut(); paint(); },
    }, drawing, h("b", {}, name), h("span", {}, size || "its own size"));
    const tiles = sizes(one).map(([width, height, name]) => tile(name, `${width} × ${height}`, outline(width, height)));
    if (told.several) tiles.unshift(tile("Each", "", null));
    const content = [h("h2", {}, "Shape"), h("div", { class: "tiles" }, tiles)];
    if (!one.limits.sizes.length && now) {
      const { min, max, multiple_of: step } = one.limits;
      const side = (label, at) => number(label, { value: asked[at], required: true, low: Math.ceil(min / step) * step, high: Math.floor(max / step) * step, step, change: (value) => {
        const sides = [...shape(one)];
        sides[at] = value;
        Object.assign(told, { shape: "own", width: sides[0], height: sides[1] });
        for (const each of panel.querySelectorAll(".tile")) each.setAttribute("aria-pressed", String(each.dataset.size === sides.join(" × ")));
        remember();
        paint();
      } });
      content.push(h("div", { class: "fields pair" }, side("Width", 0), side("Height", 1)));
    }
    return content;
  }

  function changed() {
    const one = chosen();
    return told.several ? Boolean(told.negative) : Boolean(one && ((told.negative && !one.ignores.includes("negative")) || told.steps !== null || told.guidance !== null || Object.keys(told.options[one.name] || {}).length));
  }

  function morePanel() {
    const one = chosen();
    if (told.several) {
      const takes = told.several.map(model).some((each) => each && !each.ignores.includes("negative"));
      return [h("h2", {}, "Settings of a comparison"), takes ? h("div", { class: "fields" }, unwanted("nothing")) : null,
        h("p", { class: "said", "data-first": true, tabindex: "-1" }, `${takes ? "All else" : "Everything"} is as each model has it: that is what is compared.`)].filter(Boolean);
    }
    if (!one) return h("p", { class: "said" }, "There is no model to draw with");
    const own = () => (told.options[one.name] ||= {});
    const fields = [];
    if (!one.ignores.includes("negative")) fields.push(unwanted(one.defaults.negative || "nothing"));
    if (one.limits.steps[0] !== one.limits.steps[1] && !one.ignores.includes("steps")) fields.push(number("Steps", { value: told.steps, usual: one.defaults.steps, low: one.limits.steps[0], high: one.limits.steps[1], step: 1, change: (value) => { told.steps = value; keepOne(); } }));
    if (one.defaults.guidance !== null && !one.ignores.includes("guidance")) fields.push(number("Guidance", { value: told.guidance, usual: one.defaults.guidance, low: 0, high: 100, help: "how closely it keeps to the words", change: (value) => { told.guidance = value; keepOne(); } }));
    for (const [name, option] of Object.entries(one.options)) fields.push(optionField(name, option, own(), keepOne));
    const nothing = fields.length ? null : h("p", { class: "said" }, "This model has no settings of its own");
    const reset = h("button", { class: "quiet", onclick: () => { Object.assign(told, { negative: "", steps: null, guidance: null }); delete told.options[one.name]; remember(); shut(); paint(); } }, "Back to the model's own");
    return [h("h2", {}, `Settings of ${one.title}`), nothing || h("div", { class: "fields" }, fields), fields.length ? reset : null].filter(Boolean);
    function keepOne() { remember(); chips.querySelector('[data-panel="more"]').classList.toggle("marked", changed()); }
    function unwanted(usual) {
      return h("label", { class: "wide" }, "What should not be seen", h("textarea", { rows: "2", dir: "auto", value: told.negative, placeholder: usual, oninput: (event) => { told.negative = event.target.value; keepOne(); } }));
    }
  }

  function request() {
    const one = chosen();
    const asked = { prompt: told.prompt, n: told.n };
    if (!one) return asked;
    asked.model = one.name;
    [asked.width, asked.height] = shape(one);
    if (told.locked && told.seed !== "") asked.seed = Number(told.seed);
    if (told.negative && !one.ignores.includes("negative")) asked.negative = told.negative;
    if (told.steps !== null) asked.steps = told.steps;
    if (told.guidance !== null) asked.guidance = told.guidance;
    const options = Object.fromEntries(Object.entries(told.options[one.name] || {}).filter(([name]) => name in one.options));
    if (Object.keys(options).length) asked.options = options;
    return asked;
  }

  async function submit(event) {
    event.preventDefault();
    if (!told.prompt.trim()) return;
    if (few()) {
      if (open !== "model") toggle("model");
      return;
    }
    if (!element.reportValidity()) {
      refused(panel)?.focus();
      return;
    }
    // What was typed in a panel that is shut is not in the page, and asked all the same.
    const wrong = ["shape", "more"].find((name) => refused(h("div", {}, panels[name]())));
    if (wrong) {
      if (open !== wrong) toggle(wrong);
      refused(panel)?.focus();
      return;
    }
    if (open) shut(false);
    // Somebody may be quicker than the list of models, without which the frame has no shape.
    await haveModels();
    if (told.several) {
      compare();
      return;
    }
    send(request());
  }

  const refused = (place) => [...place.querySelectorAll("input")].find((each) => !each.checkValidity());
  const send = (asked) => submitted(asked, post("/v1/jobs", asked, { "idempotency-key": once() }));

  // Each model draws with its own settings: that is what is compared.
  async function compare() {
    const first = told.locked && told.seed !== "" ? Number(told.seed) : Math.floor(Math.random() * 2 ** 32);
    const asked = { prompt: told.prompt, models: told.several, seeds: Array.from({ length: told.n }, (_, at) => first + at) };
    if (told.negative) asked.negative = told.negative;
    const size = shape(drawers());
    if (size) [asked.width, asked.height] = size;
    draw.disabled = true;
    try {
      compared(await post("/v1/series", asked, { "idempotency-key": once() }));
    } catch (no) {
      toast(no.message, no.hint);
    } finally {
      ready();
    }
  }

  const off = [on("models", () => {
    if (!open) paint();
    else if (blank && open !== "model" && state.models.length) { // it was opened before there were any
      const name = open;
      shut(false);
      toggle(name);
    }
  })];
  paint();
  queueMicrotask(grow);
  return {
    element,
    focus: () => prompt.focus(),
    send,
    several() {
      told.several ||= chosen() ? [chosen().name] : [];
      remember();
      paint();
      if (open !== "model") toggle("model");
    },
    // A picture's request, to be changed and drawn again.
    use(job) {
      const { prompt: text, negative, model: name, width, height, steps, guidance, seed: number, n, options } = job.request;
      const one = model(name);
      const usual = one?.defaults || {};
      Object.assign(told, { several: null, prompt: text, negative: negative || "", model: name, shape: width ? "own" : null, width, height, seed: String(number ?? ""), locked: true, n,
        steps: steps === usual.steps ? null : steps, guidance: guidance === usual.guidance ? null : guidance });
      told.options[name] = Object.fromEntries(Object.entries(options || {}).filter(([key, value]) => one?.options[key] && one.options[key].default !== value));
      prompt.value = text;
      if (chosen()) fitShape(chosen());
      remember();
      grow();
      paint();
      prompt.focus();
    },
    close() { off.forEach((end) => end()); document.removeEventListener("pointerdown", outside); },
  };
}

function kept() {
  try { return JSON.parse(sessionStorage.getItem(KEPT)) || {}; } catch { return {}; }
}
