// Elements without markup: text stays text, so nothing that anybody typed can ever become a script.

// h("p", {class: "x", onclick: f, hidden: true}, "words", child): listeners by `on…`, the rest as attributes.
export function h(tag, told = {}, ...children) {
  const element = document.createElement(tag);
  if (tag === "button") element.type = "button"; // one that sends a form says so
  for (const [name, value] of Object.entries(told)) set(element, name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function set(element, name, value) {
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "value") element.value = value;
  else if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : value);
}

const PATHS = {
  more: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  open: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 6.8-1.2",
  close: "M6 6l12 12M18 6L6 18",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  down: "M6 9l6 6 6-6",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  again: "M5 12a7 7 0 1 0 2.2-5.1M7 3v4h4",
  vote: "M4 5h7v14H4zM13 5h7v14h-7zM7 12l1 1 1.5-2",
  use: "M4 20l1-5L16 4l4 4L9 19z",
  key: "M8 17a4 4 0 1 1 3.6-5.8H21v3.6h-3v-2M17.5 11.2v3.6M8 13h.01",
  large: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
};

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

// A small outline of a shape, for choosing one.
export function outline(width, height) {
  const element = h("span", { class: "outline", "aria-hidden": "true" });
  const side = 18 / Math.max(width, height);
  element.style.width = `${Math.max(6, Math.round(width * side))}px`;
  element.style.height = `${Math.max(6, Math.round(height * side))}px`;
  return element;
}

// While a dialog is open, nothing outside of it can be pressed or is read aloud: what is said goes where it can be heard.
const told = document.getElementById("told");
const toasts = document.getElementById("toasts");
function settle() {
  const place = [...document.querySelectorAll("dialog:modal")].at(-1) || document.body;
  if (told.parentElement !== place) place.append(told, toasts);
}
new MutationObserver(settle).observe(document.body, { childList: true });
document.addEventListener("close", settle, true); // before the dialog is taken away, and they with it

// One polite sentence for whoever listens instead of looks; the newest counts, and seldom.
const QUIET_MS = 5000;
let saidAt = -QUIET_MS;
let later = 0;
export function say(words, { now = false } = {}) {
  clearTimeout(later);
  const speak = () => {
    saidAt = performance.now();
    told.textContent = words;
  };
  const wait = now ? 0 : saidAt + QUIET_MS - performance.now();
  if (wait <= 0) speak();
  else later = setTimeout(speak, wait);
}

const SHOWN_MS = 9000;
export function toast(message, hint = "", { action = null, kind = "bad" } = {}) {
  const box = h("div", { class: `toast ${kind}`, role: kind === "bad" ? "alert" : "status" },
    h("p", {}, h("strong", {}, message), hint ? h("span", {}, hint) : null));
  const gone = () => box.remove();
  if (action) box.append(h("button", { class: "quiet", onclick: () => { gone(); action.run(); } }, action.label));
  box.append(h("button", { class: "round", "aria-label": "Close this message", onclick: gone }, icon("close")));
  settle();
  toasts.append(box);
  setTimeout(gone, SHOWN_MS);
  return gone;
}

export const hush = () => toasts.replaceChildren();

// Words of any length: a few lines of them, and all after a press.
export function clamped(element) {
  element.classList.add("clamp");
  const more = h("button", { class: "quiet", hidden: true, "aria-expanded": "false", onclick: () => {
    const all = element.classList.toggle("all");
    more.setAttribute("aria-expanded", String(all));
    more.textContent = all ? "Less of it" : "All of it";
  } }, "All of it");
  new ResizeObserver(() => { more.hidden = element.scrollHeight <= element.clientHeight + 2 && !element.classList.contains("all"); }).observe(element);
  return [element, more];
}
