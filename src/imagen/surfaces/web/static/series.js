// A comparison: a column for each model, a row for each prompt and seed, and every cell fills as it is drawn.

import { download, get, picture, post, slug } from "./api.js";
import { between } from "./between.js";
import { h, icon, toast } from "./dom.js";
import { SEVERAL, hand } from "./draw.js";
import { Frame } from "./easel.js";
import { go } from "./router.js";
import { ended, keep, model, models, on, state } from "./store.js";
import * as viewer from "./viewer.js";
import * as words from "./words.js";

export function series(root, id) {
  return id ? one(root, id) : list(root);
}

// Every comparison there was, newest first.
function list(root) {
  const rows = h("ul", { class: "lines" });
  const more = h("button", { type: "button", class: "quiet", hidden: true }, "Older ones");
  root.replaceChildren(h("div", { class: "compare" }, h("h1", {}, "Compare"),
    h("p", { class: "said" }, "The same words, drawn by several models side by side. What you prefer without knowing who drew it: ", h("a", { href: "/imagine/ratings" }, "Ratings"), "."),
    h("div", { class: "doing" }, h("button", { type: "button", class: "go", onclick: () => { hand(SEVERAL); go("/imagine"); } }, "Compare models")), rows, more));
  const load = async (before) => {
    try {
      const told = await get(`/v1/series?limit=50${before ? `&before=${encodeURIComponent(before)}` : ""}`);
      rows.append(...told.series.map((each) => h("li", {}, h("a", { href: `/imagine/series/${each.id}` },
        h("b", { dir: "auto" }, each.prompts.join(" · ")),
        h("span", { class: "said" }, [each.models.map(title).join(", "), standing(each.state, each.counts), words.when(each.created_at)].join(" · "))))));
      more.hidden = !told.next;
      more.onclick = () => load(told.next);
    } catch (no) {
      toast(no.message, no.hint);
    }
  };
  (state.models.length ? Promise.resolve() : models().catch(() => {})).then(() => load());
  return () => {};
}

const title = (name) => model(name)?.title || name;

function standing(state_, counts) {
  const total = Object.values(counts).reduce((sum, each) => sum + each, 0);
  const { completed = 0, failed = 0, cancelled = 0 } = counts;
  const parts = [`${completed} of ${total} drawn`, failed ? `${failed} failed` : "", cancelled ? `${cancelled} cancelled` : ""];
  return parts.filter(Boolean).join(", ");
}

function one(root, id) {
  const heading = h("h1", { dir: "auto" });
  const status = h("p", { class: "said", role: "status" });
  const acts = h("div", { class: "doing" });
  const grid = h("div", { class: "grid", tabindex: "0", role: "region", "aria-label": "The pictures of this comparison" });
  root.replaceChildren(h("div", { class: "compare" }, h("div", { class: "about" }, heading, status, acts), grid));
  let told = null;
  let cells = [];
  let first = null; // the cell that waits for another to be laid over it
  let closed = false;
  let settling = false;

  function show(now) {
    told = now;
    for (const cell of cells) cell.close();
    heading.textContent = told.prompts.join(" · ");
    document.title = `${heading.textContent} · imagen`;
    const rows = told.prompts.flatMap((prompt) => told.seeds.map((seed) => ({ prompt, seed })));
    settling = true; // its own jobs are news to the store, and no reason to begin again
    cells = told.cells.map((each) => cell(each, pressed));
    settling = false;
    const at = (name, row) => cells.find(({ place }) => place.model === name && place.prompt === row.prompt && place.seed === row.seed);
    grid.style.setProperty("--columns", String(told.models.length));
    const head = told.models.map((name) => h("th", { scope: "col" }, h("b", {}, title(name)), h("span", { class: "said" }, model(name)?.licence || "")));
    const body = rows.flatMap((row, number) => [
      told.prompts.length > 1 && row.prompt !== rows[number - 1]?.prompt ? h("tr", { class: "words-of" }, h("th", { scope: "colgroup", colspan: String(told.models.length), dir: "auto" }, row.prompt)) : null,
      h("tr", {}, told.models.map((name) => h("td", {}, at(name, row)?.element || null))),
    ]).filter(Boolean);
    grid.replaceChildren(h("table", {}, h("caption", { class: "unseen" }, "A column for each model"), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
    paint();
  }

  function paint() {
    const counts = {};
    for (const { job } of cells) counts[job?.state || "queued"] = (counts[job?.state || "queued"] || 0) + 1;
    status.textContent = standing(told.state, counts);
    const open = cells.some(({ job }) => !job || !ended(job));
    const failed = (counts.failed || 0) + (counts.cancelled || 0);
    const button = (name, label, run) => h("button", { type: "button", class: "quiet", onclick: run }, icon(name), label);
    const name = slug(told.prompts[0]);
    const keepFocus = acts.contains(document.activeElement) && document.activeElement.tagName === "SELECT";
    if (keepFocus) return; // somebody is choosing a model; the next change paints
    acts.replaceChildren(...[
      open ? button("close", "Cancel the rest", () => ask_("cancel")) : null,
      failed && !open ? button("again", failed === 1 ? "Draw the failed one again" : `Draw ${failed} again`, () => ask_("retry")) : null,
      told.models.length > 1 && (counts.completed || 0) > 1 ? h("a", { class: "quiet", href: `/imagine/series/${id}/vote` }, icon("vote"), "Vote blind") : null,
      button("save", "Contact sheet", () => download(`/v1/series/${id}/sheet.png`, name).catch(refused)),
      button("save", "Data", () => download(`/v1/series/${id}/sidecar.json`, name).catch(refused)),
      adding(),
    ].filter(Boolean));
  }

  function adding() {
    const left = state.models.filter((each) => !told.models.includes(each.name) && each.available);
    if (!left.length) return null;
    return h("select", { class: "quiet", "aria-label": "Add a model", onchange: (event) => {
      const { value } = event.target;
      event.target.blur();
      if (value) ask_("models", { models: [value] });
    } }, h("option", { value: "" }, "Add a model…"), left.map((each) => h("option", { value: each.name }, each.title)));
  }

  const refused = (no) => toast(no.message, no.hint);
  async function ask_(what, body) {
    try {
      show(await post(`/v1/series/${id}/${what}`, body));
    } catch (no) {
      refused(no);
    }
  }

  // Looked at alone, or, after "A/B" on another one, over that.
  function pressed(what, mine) {
    const pictures = cells.filter((each) => each.image);
    if (what === "look") {
      const shown = pictures.map(({ job, image }) => ({ job, image }));
      viewer.open(shown, pictures.indexOf(mine), { using: (job) => { hand(job); go("/imagine"); }, drawn: () => go("/imagine") });
      return;
    }
    if (!first || first === mine || !first.image) {
      first?.mark(false);
      first = first === mine ? null : mine;
      first?.mark(true);
      return;
    }
    const [a, b] = [first, mine];
    first.mark(false);
    first = null;
    between(side(a), side(b));
  }
  const side = ({ job, image }) => ({ url: image.url, width: image.width, height: image.height, label: title(job.request.model), alt: job.request.prompt });

  async function load() {
    try {
      const now = await get(`/v1/series/${id}`);
      if (!state.models.length) await models();
      if (!closed) show(now);
    } catch (no) {
      heading.textContent = no.message;
      status.textContent = no.hint || "";
    }
  }
  load();
  const off = [
    // A retry takes over its cell; it is heard of as a job of this series that nobody knew.
    on("jobs", (job) => {
      if (!told || settling || !job || job.series !== id) return;
      const place = cells.find((each) => each.place.index === job.cell);
      if (!place) load();
      else if (!place.job || place.job.id < job.id) place.follow(job);
      paint();
    }),
    on("link", (link) => { if (link === "online" && told) load(); }),
  ];
  return () => {
    closed = true;
    off.forEach((end) => end());
    for (const each of cells) each.close();
  };
}

function cell(place, pressed) {
  const box = h("div", { class: "spot" });
  const line = h("p", { class: "standing" });
  const sub = h("p", { class: "said" });
  const overlay = h("button", { type: "button", class: "quiet ab", hidden: true, "aria-pressed": "false", title: "Lay another one over it", onclick: () => pressed("ab", mine) }, "A/B");
  const element = h("div", { class: "cell-of" }, box, h("div", { class: "under" }, h("div", {}, line, sub), overlay));
  let off = () => {};
  let frame = null;
  let drawn = "";
  const mine = {
    place, element, job: null, image: null,
    mark: (yes) => { overlay.setAttribute("aria-pressed", String(yes)); },
    follow,
    close: () => off(),
  };

  function follow(job) {
    off();
    off = on(job.id, update);
    frame = null;
    drawn = "";
    mine.image = null;
    overlay.hidden = true;
    mine.job = job;
    update(keep(job));
  }

  async function update(job) {
    mine.job = job;
    const { width, height } = job.request;
    if (!frame) {
      frame = new Frame(width || 1, height || 1, `${job.request.prompt}, by ${title(job.request.model)}`);
      box.replaceChildren(frame.element);
    } else if (width) frame.shape(width, height);
    element.dataset.job = job.id;
    element.dataset.state = job.state;
    element.classList.toggle("waiting", !ended(job));
    for (const preview of Object.values(job.previews || {})) frame.show(preview.url, preview.total ? preview.step / preview.total : 0.5);
    line.textContent = job.state === "completed" ? words.seconds(words.worked(job.timings)) : words.standing(job);
    sub.textContent = job.state === "failed" ? `${job.error.message}. ${job.error.hint || ""}` : job.state === "completed" ? [words.timings(job.timings), `seed ${place.seed}`].join(" · ") : words.steps(job) || `seed ${place.seed}`;
    const image = job.images.find((each) => each.state === "stored");
    if (!image || drawn === image.id) return;
    drawn = image.id;
    mine.image = image;
    try {
      frame.show(await picture(image.url), 1, true);
    } catch {
      return;
    }
    frame.element.append(h("button", { type: "button", class: "look", "aria-label": `Look at it: ${title(job.request.model)}, seed ${place.seed}`, onclick: () => pressed("look", mine) }));
    overlay.hidden = false;
    overlay.setAttribute("aria-label", `A/B: lay another picture over ${title(job.request.model)}, seed ${place.seed}`);
  }

  if (place.job) follow(place.job);
  else {
    box.append(h("div", { class: "frame" }, h("div", { class: "mist" })));
    line.textContent = "Waiting its turn";
  }
  return mine;
}
