// The page put together: state, views, and how it says that the server is away.

import { askWith } from "./api.js";
import { draw } from "./draw.js";
import { h, say, toast } from "./dom.js";
import { gallery } from "./gallery.js";
import { ratings } from "./ratings.js";
import { route } from "./router.js";
import { series } from "./series.js";
import { begin, on } from "./store.js";
import { vote } from "./vote.js";

const VIEWS = { draw, gallery, series, vote, ratings };
const UNDER = { vote: "series", ratings: "series" }; // whose link is lit
const TITLES = { draw: "imagen", gallery: "Gallery · imagen", series: "Compare · imagen", vote: "Vote · imagen", ratings: "Ratings · imagen" };
const AWAY_MS = 1200; // a server that restarts is back within a moment; that is not worth a word

let close = () => {};
function show({ view, id }) {
  const name = view in VIEWS ? view : "draw";
  close();
  document.title = TITLES[name];
  document.body.dataset.view = name;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === (UNDER[name] || name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  close = VIEWS[name](document.getElementById("view"), id);
}

// One field, asked once: a server that others can reach wants a key.
function person(wrong) {
  return new Promise((answered) => {
    const input = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
    const dialog = h("dialog", { class: "key", "aria-label": "A key is wanted" }, h("form", { method: "dialog" },
      h("h2", {}, wrong ? "This key is not known here" : "This server wants a key"),
      h("p", { class: "said" }, "Its owner makes one with ", h("code", {}, "imagen keys add NAME"), ". It is kept in this browser."),
      h("label", { for: "key" }, "Key"), input, h("button", { class: "go", type: "submit" }, "Go on")));
    dialog.addEventListener("close", () => { dialog.remove(); answered(input.value.trim() || null); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

askWith(person);
let away = 0;
let told = false;
on("link", (link) => {
  clearTimeout(away);
  const line = document.getElementById("link");
  if (link === "online") {
    line.textContent = "";
    if (told) say("The server is back", { now: true });
    told = false;
    document.body.classList.remove("offline");
    return;
  }
  away = setTimeout(() => {
    told = true;
    document.body.classList.add("offline");
    line.textContent = "The server is away. Nothing is lost; this page goes on when it is back.";
  }, AWAY_MS);
});
route(show);
begin().catch((no) => { if (no.code !== "offline") toast(no.message, no.hint); });
