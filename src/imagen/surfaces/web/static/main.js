// The page put together: state, views, and how it says that the server is away.

import { askWith, keyed, knows, useKey, wantKey } from "./api.js";
import { draw } from "./draw.js";
import { h, hush, icon, say, toast } from "./dom.js";
import { gallery } from "./gallery.js";
import { ratings } from "./ratings.js";
import { here, route } from "./router.js";
import { series } from "./series.js";
import { begin, on, refresh, state } from "./store.js";
import { vote } from "./vote.js";

const VIEWS = { draw, gallery, series, vote, ratings, lost };
const UNDER = { vote: "series", ratings: "series" }; // whose link is lit
const TITLES = { draw: "imagen", gallery: "Gallery · imagen", series: "Compare · imagen", vote: "Vote · imagen", ratings: "Ratings · imagen", lost: "No such page · imagen" };
const AWAY_MS = 1200; // a server that restarts is back within a moment; that is not worth a word

let close = () => {};
function show({ view, id }) {
  const name = Object.hasOwn(VIEWS, view) ? view : "lost";
  close();
  document.title = TITLES[name];
  document.body.dataset.view = name;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === (UNDER[name] || name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  close = VIEWS[name](document.getElementById("view"), id);
}

function lost(root) {
  root.replaceChildren(h("div", { class: "welcome" }, h("h1", {}, "There is no such page"),
    h("p", { class: "said" }, h("a", { href: "/imagine" }, "Draw a picture"), ", or look at ", h("a", { href: "/imagine/gallery" }, "what was drawn"), ".")));
  return () => {};
}

// One field for many requests: a server that others can reach wants a key. It is open until the server knows the key,
// or somebody closes it. `own`: somebody wants to use another key, or none.
function person(wrong, own = false) {
  return new Promise((answered) => {
    let told = null;
    const input = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
    const go = h("button", { class: "go", type: "submit" }, own ? "Use this one" : "Go on");
    const trouble = h("p", { class: "danger", role: "alert" }, wrong && !own ? "The key that was kept is not known here any more" : "");
    const check = async (event) => {
      event.preventDefault();
      const asked = input.value.trim();
      trouble.textContent = "";
      go.disabled = true;
      try {
        if (await knows(asked)) told = asked;
        else trouble.textContent = "This key is not known here";
      } catch (no) {
        trouble.textContent = `${no.message}. ${no.hint}`;
      }
      go.disabled = false;
      if (told) dialog.close();
      else input.select();
    };
    const dialog = h("dialog", { class: "key", "aria-labelledby": "wanted" }, h("form", { onsubmit: check },
      h("h2", { id: "wanted" }, own ? "The key of this browser" : "This server wants a key"),
      h("p", { class: "said" }, "Its owner makes one with ", h("code", {}, "imagen keys add NAME"), ". It is kept in this browser."),
      h("label", { for: "key" }, own ? "Another key" : "Key"), input, trouble,
      h("div", { class: "doing" }, go, own ? h("button", { class: "quiet", onclick: () => change("") }, "Forget the key") : null)));
    const elsewhere = () => dialog.close(); // it was given in another tab
    addEventListener("keyed", elsewhere, { once: true });
    dialog.addEventListener("close", () => {
      removeEventListener("keyed", elsewhere);
      dialog.remove();
      dismissed ||= !told && !own;
      paintKey();
      answered(told);
    });
    hush();
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Where the key is changed or forgotten, and where it is given after all: only on servers that want one.
let dismissed = false;
const own = h("button", { class: "round own", "aria-label": "Key", title: "The key of this browser", hidden: true, onclick: async () => {
  if (!keyed()) { wantKey(); return; }
  const told = await person(false, true);
  if (told) change(told);
} }, icon("key"));
// Nothing that one person saw stays for the next.
function change(told) {
  useKey(told);
  location.reload();
}
document.querySelector(".top nav").after(own);
function paintKey() { own.hidden = !keyed() && !dismissed && state.link !== "locked"; }
addEventListener("keyed", () => {
  // What waited for the key goes on by itself; what was refused without one is shown anew.
  const anew = dismissed || here().view !== "draw";
  dismissed = false;
  paintKey();
  if (anew) show(here());
  if (state.ready || anew) refresh().catch(() => {});
});

askWith(person);
paintKey();
let away = 0;
let told = false;
on("link", (link) => {
  clearTimeout(away);
  const line = document.getElementById("link");
  if (link !== "offline") {
    line.textContent = link === "locked" ? "This server wants a key" : "";
    paintKey();
    if (link === "locked") wantKey();
    if (told && link === "online") say("The server is back", { now: true });
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
begin().catch((no) => { if (no.code !== "offline" && no.status !== 401) toast(no.message, no.hint); });
