// How good models are by the votes, and how sure that is: an interval for each, on one scale.

import { download, get } from "./api.js";
import { h, icon, toast } from "./dom.js";
import { haveModels, title } from "./store.js";
import * as words from "./words.js";

export function ratings(root) {
  const content = h("div", { class: "groups" });
  const status = h("p", { class: "said", role: "status" });
  const page = h("div", { class: "compare ratings" }, h("div", { class: "about" }, h("h1", {}, "Ratings"), status), content);
  root.replaceChildren(page);
  let closed = false;

  function show(told) {
    if (!told.votes) {
      status.textContent = "There are no votes yet";
      content.replaceChildren(h("p", {}, "Open a ", h("a", { href: "/imagine/series" }, "comparison"), " and press “Vote blind”: two pictures, no names, one key for the better one."));
      return;
    }
    const { left, right } = told.sides;
    status.textContent = `${words.count(told.votes, "vote")}, ${told.ties} of them equal; the left one was better ${words.count(left, "time")}, the right one ${right}. `
      + `1000 is the mean, and 400 more are odds of ten to one. The bar holds the truth ${Math.round(told.confidence * 100)} times of a hundred: while two overlap widely, nobody knows which is better.`;
    const all = told.groups.flatMap((group) => group.models);
    const low = Math.min(...all.map((one) => one.low));
    const high = Math.max(...all.map((one) => one.high));
    const place = (value) => (high > low ? ((value - low) / (high - low)) * 100 : 50);
    content.replaceChildren(...told.groups.map((group, at) => h("section", {},
      told.groups.length > 1 ? h("h2", {}, `Group ${at + 1}: no vote compares these with the others`) : null,
      h("table", {}, h("thead", {}, h("tr", {}, [["Place", "number"], ["Model"], ["Rating", "number"], ["From – to"], ["Votes", "number more"], ["Prompts", "number more"]].map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
        h("tbody", {}, group.models.map((one) => row(one, place)))))),
      h("div", { class: "doing" }, h("button", { class: "quiet", onclick: () => download("/v1/ratings?format=csv", "ratings").catch((no) => toast(no.message, no.hint)) }, icon("save"), "As a table (CSV)")));
  }

  function row(one, place) {
    const bar = h("span", { class: "interval", "aria-hidden": "true" }, h("span", {}), h("i", {}));
    bar.style.setProperty("--from", `${place(one.low)}%`);
    bar.style.setProperty("--to", `${100 - place(one.high)}%`);
    bar.style.setProperty("--at", `${place(one.rating)}%`);
    const places = one.best === one.worst ? String(one.best) : `${one.best} – ${one.worst}`;
    return h("tr", {}, h("td", { class: "number" }, places), h("th", { scope: "row" }, title(one.model)), h("td", { class: "number" }, String(Math.round(one.rating))),
      h("td", {}, bar, h("span", { class: "said" }, `${Math.round(one.low)} – ${Math.round(one.high)}`, h("span", { class: "brief" }, `; ${words.count(one.votes, "vote")}, ${words.count(one.prompts, "prompt")}`))),
      h("td", { class: "number more" }, String(one.votes)), h("td", { class: "number more" }, String(one.prompts)));
  }

  (async () => {
    try {
      await haveModels();
      const told = await get("/v1/ratings");
      if (!closed) show(told);
    } catch (no) {
      status.textContent = words.failure(no);
    }
  })();
  return () => { closed = true; };
}
