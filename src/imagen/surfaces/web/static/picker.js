// Which model draws: what it is called, under which licence, how fast it was here, and why it cannot, where it cannot.

import { h, set } from "./dom.js";
import { on, speed, state } from "./store.js";
import * as words from "./words.js";

const MANY = 8; // from here on there is a field to search in

// One is picked, or several are ticked: `several` is null or their names.
export function picker({ chosen, several, pick, pickSeveral }) {
  const list = h("div", { class: "models", role: "listbox", "aria-label": "Models", tabindex: "-1" });
  const search = h("input", { type: "search", placeholder: "Find a model", "aria-label": "Find a model", oninput: () => show() });
  let active = chosen?.name;

  const ticked = () => several !== null;
  const mode = h("button", { class: "quiet", onclick: () => {
    several = ticked() ? null : chosen ? [chosen.name] : [];
    pickSeveral(several);
    show();
  } });
  function choose(one) {
    if (!ticked()) { pick(one); return; }
    several = several.includes(one.name) ? several.filter((name) => name !== one.name) : [...several, one.name];
    active = one.name;
    pickSeveral(several);
    show();
    document.getElementById(`model-${one.name}`)?.focus({ preventScroll: true });
  }
  const isChosen = (one) => (ticked() ? several.includes(one.name) : one.name === chosen?.name);

  const found = () => {
    const asked = search.value.trim().toLowerCase();
    const order = (one) => (one.available ? (one.default ? 0 : 1) : 2);
    return state.models
      .filter((one) => `${one.title} ${one.name} ${one.licence}`.toLowerCase().includes(asked))
      .sort((a, b) => order(a) - order(b) || a.title.localeCompare(b.title));
  };

  function show() {
    const models = found();
    // While nobody knows how many there are, what is typed has to go somewhere.
    set(search, "hidden", state.models.length > 0 && state.models.length <= MANY && !search.value);
    set(list, "aria-multiselectable", ticked() ? "true" : null);
    if (!models.some((one) => one.name === active)) active = models[0]?.name;
    mode.textContent = ticked() ? "Only one" : "Compare several";
    list.replaceChildren(...models.map((one) => row(one)));
    if (!models.length) list.append(h("p", { class: "said", role: "option", "aria-disabled": "true" }, "No model is called like that"));
  }

  function row(one) {
    const pace = speed(one.name);
    const facts = words.dots(one.licence, pace && `about ${words.seconds(pace)} here`, one.loaded && "ready in memory");
    return h("div", {
      class: `model${one.available ? "" : " away"}`, role: "option", id: `model-${one.name}`, "aria-selected": String(isChosen(one)),
      tabindex: one.name === active ? "0" : "-1", onclick: () => choose(one), "data-first": one.name === active ? true : null,
    }, h("b", {}, one.title), h("span", { class: "clamp" }, one.notes), h("span", { class: "said" }, facts),
    one.available ? null : h("span", { class: "why" }, one.error ? `${one.error.message}: ${one.error.hint}` : "Not available now"));
  }

  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); document.activeElement.click(); }
  });
  const moved = (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const models = found();
    if (!by || !models.length) {
      if (event.key === "Enter" && event.target === search) { event.preventDefault(); if (models[0]) choose(models.find((one) => one.name === active) || models[0]); }
      return;
    }
    event.preventDefault();
    const inList = list.contains(document.activeElement);
    const at = inList ? models.findIndex((one) => one.name === active) + by : by > 0 ? 0 : models.length - 1;
    if (at < 0 && state.models.length > MANY) { search.focus(); return; }
    active = models[Math.min(models.length - 1, Math.max(0, at))].name;
    for (const option of list.children) option.tabIndex = option.id === `model-${active}` ? 0 : -1;
    document.getElementById(`model-${active}`)?.focus();
  };
  const box = h("div", { class: "picker", onkeydown: moved }, h("div", { class: "finding" }, search, mode), list);
  show();
  const off = on("models", () => { if (box.isConnected) show(); else off(); });
  return box;
}
