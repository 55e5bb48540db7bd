// Every picture, newest first. Only the rows that can be seen exist; ten thousand cost what thirty cost.

import { get, picture } from "./api.js";
import { h, set, toast } from "./dom.js";
import { hand, stage } from "./draw.js";
import { go, rename } from "./router.js";
import { ended, on, state } from "./store.js";
import * as viewer from "./viewer.js";
import * as words from "./words.js";

const PAGE = 200;
const GAP = 8;
const AHEAD_PX = 900; // rows above and below what is seen
const TYPED_MS = 250;

export function gallery(root) {
  const search = h("input", { type: "search", placeholder: "Find words", "aria-label": "Find pictures by their words", dir: "auto" });
  const models = h("select", { "aria-label": "Only of this model" });
  const total = h("p", { class: "said", role: "status" });
  const field = h("div", { class: "field", role: "list", "aria-label": "Pictures" });
  const nothing = h("div", { class: "welcome", hidden: true });
  const page = h("div", { class: "gallery" }, h("div", { class: "filters" }, h("h1", {}, "Gallery"), search, models, total), field, nothing);
  let items = [];
  let rows = [];
  let next = null;
  let loading = null;
  let turn = 0;
  let active = null; // the picture that has the keyboard
  let failed = false;
  let known = false; // whether there is an answer at all
  const cells = new Map(); // picture -> element, only of what is near

  async function load(afresh = false) {
    if (afresh) {
      [turn, loading, next] = [turn + 1, null, null];
      rename(`?${new URLSearchParams([["q", search.value.trim()], ["model", models.value]].filter(([, value]) => value))}`);
    }
    else if (loading || !next) return loading;
    const mine = turn;
    loading = (async () => {
      const asked = new URLSearchParams({ limit: String(PAGE) });
      if (search.value.trim()) asked.set("q", search.value.trim());
      if (models.value) asked.set("model", models.value);
      if (next) asked.set("before", next);
      try {
        const answer = await get(`/v1/jobs?${asked}`);
        if (mine !== turn) return;
        if (afresh) { items = []; clear(); scrollTo(0, 0); active = null; }
        failed = false;
        known = true;
        items.push(...answer.jobs.flatMap(pictures));
        next = answer.next;
        layout();
      } catch (no) {
        if (mine !== turn) return;
        failed = true;
        if (items.length) toast(no.message, no.hint);
        else layout();
      } finally {
        if (mine === turn) loading = null;
      }
      if (mine === turn && next && field.clientHeight < innerHeight * 2) load();
    })();
    return loading;
  }

  // What a failed or cancelled job had drawn by then is here too; one that still draws comes with its end.
  const pictures = (job) => !ended(job) ? [] : job.images.filter((one) => one.state === "stored").map((image) => ({ job, image })).reverse();

  function layout() {
    const width = field.clientWidth;
    rows = rowsOf(items, width, width < 560 ? 132 : 216);
    const last = rows.at(-1);
    field.style.height = `${last ? last.top + last.height : 0}px`;
    nothing.hidden = items.length > 0 || !(known || failed);
    const why = failed ? "The pictures cannot be loaded now; they come when the server answers" : search.value || models.value ? "No picture is like that" : "Nothing was drawn yet";
    if (!items.length) nothing.replaceChildren(h("p", {}, why));
    total.textContent = failed || !known ? "" : `${words.count(items.length, "picture")}${next ? " so far" : ""}`;
    items.forEach((item, at) => { item.at = at; });
    for (const [item, cell] of cells) place(cell, item);
    render();
  }

  function place(cell, item) {
    const row = items[item.at] === item && rows[item.row];
    if (!row) { cell.remove(); cells.delete(item); return; }
    const { x, w, at } = item;
    cell.dataset.at = String(at);
    set(cell, "aria-posinset", String(at + 1));
    set(cell, "aria-setsize", next ? "-1" : String(items.length));
    Object.assign(cell.style, { transform: `translate(${x}px, ${row.top}px)`, width: `${w}px`, height: `${row.height}px` });
  }

  function render() {
    const top = scrollY - field.offsetTop - AHEAD_PX;
    const bottom = scrollY - field.offsetTop + innerHeight + AHEAD_PX;
    let from = first(rows, top);
    const wanted = new Set();
    for (; from < rows.length && rows[from].top < bottom; from += 1) {
      for (let at = rows[from].from; at < rows[from].to; at += 1) wanted.add(items[at]);
    }
    active ??= items[0] ?? null;
    for (const [item, cell] of cells) if (!wanted.has(item) && item !== active) { cell.remove(); cells.delete(item); }
    for (const item of wanted) if (!cells.has(item)) add(item);
    if (rows.length && bottom > rows.at(-1).top - innerHeight * 2) load();
  }

  function add(item) {
    const { job, image, at } = item;
    const img = h("img", { alt: "", decoding: "async", draggable: "false" });
    const button = h("button", { class: "print", tabindex: item === active ? "0" : "-1", "aria-label": job.request.prompt.slice(0, 160), onclick: () => open(item.at), onfocus: () => { active = item; } }, img);
    const cell = h("div", { class: "cell", role: "listitem" }, button);
    picture(`${image.url}?w=${copy(item)}`).then((src) => { img.src = src; }, () => {});
    img.addEventListener("load", () => img.classList.add("in"));
    place(cell, item);
    cells.set(item, cell);
    // In the order of the pictures, so that Tab and screen readers go as the eye does.
    let after = null;
    for (const child of field.children) if (Number(child.dataset.at) > at) { after = child; break; }
    field.insertBefore(cell, after);
  }

  function clear() {
    for (const cell of cells.values()) cell.remove();
    cells.clear();
  }

  function focus(at) {
    const to = Math.min(items.length - 1, Math.max(0, at));
    const row = rows[items[to]?.row];
    if (!row) return;
    const y = row.top + field.offsetTop;
    if (y < scrollY + 80) scrollTo(0, y - 80);
    else if (y + row.height > scrollY + innerHeight) scrollTo(0, y + row.height - innerHeight + 16);
    render();
    const old = cells.get(active)?.firstChild;
    if (old) old.tabIndex = -1;
    active = items[to];
    const button = cells.get(active).firstChild;
    button.tabIndex = 0;
    button.focus({ preventScroll: true });
  }

  function keys(event) {
    const at = active?.at ?? 0;
    const row = items[at]?.row;
    const beside = (by) => {
      const other = rows[row + by];
      if (!other) return at;
      const middle = items[at].x + items[at].w / 2;
      let best = other.from;
      for (let one = other.from; one < other.to; one += 1) if (Math.abs(items[one].x + items[one].w / 2 - middle) < Math.abs(items[best].x + items[best].w / 2 - middle)) best = one;
      return best;
    };
    const to = { ArrowRight: () => at + 1, ArrowLeft: () => at - 1, ArrowDown: () => beside(1), ArrowUp: () => beside(-1), Home: () => 0, End: () => items.length - 1 }[event.key];
    if (!to || !items.length) return;
    event.preventDefault();
    focus(to());
  }
  field.addEventListener("keydown", keys);

  function open(at) {
    viewer.open(items, at, {
      using: (job) => { hand(job); go("/imagine"); },
      drawn: (again) => { stage(again); go("/imagine"); },
      gone: ({ id }) => {
        // The viewer's list is as it was when it was opened.
        const at = items.findIndex((item) => item.image.id === id);
        if (at >= 0) items.splice(at, 1);
        layout();
      },
      more: () => load(),
      moved: (to) => { active = items[to]; },
      closed: () => { if (page.isConnected && items.length) focus(active?.at ?? 0); },
    });
  }

  function paintModels() {
    const now = models.value || (known ? "" : asked.get("model") || "");
    models.replaceChildren(h("option", { value: "" }, "Every model"), ...state.models.map((one) => h("option", { value: one.name }, one.title)));
    models.value = now;
  }

  function drawn(job) {
    if (!job || !ended(job) || items.some((one) => one.job.id === job.id)) return;
    if (models.value && job.request.model !== models.value) return;
    if (search.value.trim() && !job.request.prompt.toLowerCase().includes(search.value.trim().toLowerCase())) return;
    const made = pictures(job);
    if (!made.length) return;
    // Who looks further down, or at one picture with the keyboard, keeps looking at it.
    const held = scrollY > field.offsetTop ? [...cells.keys()].find((item) => rows[item.row].top + rows[item.row].height > scrollY - field.offsetTop) : null;
    const before = held && rows[held.row].top;
    items.unshift(...made);
    layout();
    if (held) scrollBy(0, rows[held.row].top - before);
  }

  const asked = new URLSearchParams(location.search);
  search.value = asked.get("q") || "";
  let typed = 0;
  search.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(() => load(true), TYPED_MS); });
  models.addEventListener("change", () => load(true));
  let frame = 0;
  const scrolled = () => { frame ||= requestAnimationFrame(() => { frame = 0; render(); }); };
  addEventListener("scroll", scrolled, { passive: true });
  const resized = new ResizeObserver(() => { if (field.clientWidth !== wide) { wide = field.clientWidth; layout(); } });
  let wide = 0;
  root.replaceChildren(page);
  resized.observe(field);
  paintModels();
  const off = [on("models", paintModels), on("jobs", drawn), on("link", (link) => { if (link === "online" && failed) load(!items.length); })];
  load(true);
  return () => {
    turn += 1;
    off.forEach((end) => end());
    resized.disconnect();
    removeEventListener("scroll", scrolled);
  };
}

// The small copies have these longest edges; in a tall one the width is less.
const EDGES = [320, 512];
function copy({ w, ratio, image: { width, height } }) {
  const edge = EDGES.find((one) => one >= Math.max(w, w / ratio) * devicePixelRatio) || EDGES.at(-1);
  return Math.max(1, Math.floor(edge * Math.min(1, width / height)));
}

// Rows that fill the width with whole pictures, each row as high as makes that so.
function rowsOf(items, width, height) {
  const rows = [];
  let from = 0;
  let ratios = 0;
  let top = 0;
  const close = (to, high) => {
    let x = 0;
    for (let at = from; at < to; at += 1) {
      const w = items[at].ratio * high;
      Object.assign(items[at], { x, w, row: rows.length });
      x += w + GAP;
    }
    rows.push({ from, to, top, height: high });
    top += high + GAP;
    from = to;
    ratios = 0;
  };
  items.forEach((item, at) => {
    item.ratio = Math.min(4, Math.max(0.25, item.image.width / item.image.height));
    ratios += item.ratio;
    const high = (width - GAP * (at - from)) / ratios;
    if (high <= height) close(at + 1, high);
  });
  if (from < items.length) close(items.length, height);
  return rows;
}

function first(rows, y) {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].top + rows[middle].height < y) low = middle + 1;
    else high = middle;
  }
  return low;
}
