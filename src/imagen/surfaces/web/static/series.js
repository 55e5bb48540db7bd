// A comparison: a column for each model, a row for each prompt and seed, and every cell fills as it is drawn.

import { download, get, picture, post, slug } from "./api.js";
import { between } from "./between.js";
import { clamped, h, icon, toast } from "./dom.js";
import { SEVERAL, hand, stage } from "./draw.js";
import { Frame } from "./easel.js";
import { go } from "./router.js";
import { ended, haveModels, keep, model, on, state, title } from "./store.js";
import * as viewer from "./viewer.js";
import * as words from "./words.js";

export function series(root, id) {
  return id ? one(root, id) : list(root);
}

const FIRST = 4; // pictures of a comparison in the list of them
const THUMB = 160;

// Every comparison there was, newest first.
function list(root) {
  const rows = h("ul", { class: "lines" });
  const more = h("button", { class: "quiet", hidden: true }, "Older ones");
  // Its pictures are asked for when somebody can see where they go.
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) { seen.unobserve(target); pictures(target); }
  }, { rootMargin: "200px" });
  root.replaceChildren(h("div", { class: "compare" }, h("h1", {}, "Compare"),
    h("p", { class: "said" }, "The same words, drawn by several models side by side. What you prefer without knowing who drew it: ", h("a", { href: "/imagine/ratings" }, "Ratings"), "."),
    h("div", { class: "doing" }, h("button", { class: "go", onclick: () => { hand(SEVERAL); go("/imagine"); } }, "Compare models")), rows, more));
  const load = async (before) => {
    try {
      const told = await get(`/v1/series?limit=50${before ? `&before=${encodeURIComponent(before)}` : ""}`);
      rows.append(...told.series.map((each) => {
        const few = h("span", { class: "few", "data-series": each.id, "aria-hidden": "true" });
        seen.observe(few);
        return h("li", {}, h("a", { href: `/imagine/series/${each.id}` }, few, h("span", {},
          h("b", { dir: "auto", class: "clamp" }, each.prompts.join(" · ")),
          h("span", { class: "said" }, words.dots(each.models.map(title).join(" / "), standing(each.counts), words.when(each.created_at))))));
      }));
      more.hidden = !told.next;
      more.onclick = () => load(told.next);
    } catch (no) {
      toast(no.message, no.hint);
    }
  };
  haveModels().then(() => load());
  return () => seen.disconnect();
}

async function pictures(place) {
  const { jobs } = await get(`/v1/jobs?series=${place.dataset.series}&state=completed&limit=${FIRST}`).catch(() => ({ jobs: [] }));
  const shown = jobs.flatMap((job) => job.images.filter((image) => image.state === "stored").slice(0, 1)).slice(0, FIRST);
  place.replaceChildren(...await Promise.all(shown.map(async ({ url }) => h("img", { alt: "", src: await picture(`${url}?w=${THUMB}`).catch(() => null) }))));
}

function standing(counts, deleted = 0) {
  const total = Object.values(counts).reduce((sum, each) => sum + each, 0);
  const { completed = 0, failed = 0, cancelled = 0 } = counts;
  const parts = [`${completed} of ${total} drawn`, failed ? `${failed} failed` : "", cancelled ? `${cancelled} cancelled` : "", deleted ? `${deleted} deleted` : ""];
  return parts.filter(Boolean).join(", ");
}

function one(root, id) {
  const heading = h("h1", { dir: "auto" });
  const status = h("p", { class: "said", role: "status" });
  const acts = h("div", { class: "doing" });
  const adder = h("form", { class: "doing adder", hidden: true, onsubmit: add });
  const armed = h("div", { class: "armed", hidden: true, role: "status" });
  const grid = h("div", { class: "grid", tabindex: "0", role: "region", "aria-label": "The pictures of this comparison" });
  root.replaceChildren(h("div", { class: "compare" }, h("div", { class: "about" }, h("div", {}, clamped(heading)), status, h("div", { class: "doing" }, acts, adder)), grid, armed));
  let told = null;
  let cells = [];
  let first = null; // the cell that waits for another to be laid over it
  let closed = false;
  let settling = false;

  function show(now) {
    told = now;
    for (const cell of cells) cell.close();
    heading.textContent = told.prompts.join(" · ");
    document.title = `${heading.textContent.slice(0, 80)} · imagen`;
    arm(null);
    const rows = told.prompts.flatMap((prompt) => told.seeds.map((seed) => ({ prompt, seed })));
    settling = true; // its own jobs are news to the store, and no reason to begin again
    cells = told.cells.map((each) => cell(each, pressed));
    settling = false;
    const at = (name, row) => cells.find(({ place }) => place.model === name && place.prompt === row.prompt && place.seed === row.seed);
    grid.style.setProperty("--columns", String(told.models.length));
    const { width, height } = told.cells.find(({ job }) => job?.request.width)?.job.request || { width: 1, height: 1 };
    grid.style.setProperty("--ratio", String(width / height));
    const head = told.models.map((name) => h("th", { scope: "col" }, h("b", {}, title(name)), h("span", { class: "said" }, model(name)?.licence || "")));
    const body = rows.flatMap((row, number) => [
      told.prompts.length > 1 && row.prompt !== rows[number - 1]?.prompt ? h("tr", { class: "words-of" }, h("th", { scope: "colgroup", colspan: String(told.models.length), dir: "auto" }, clamped(h("span", {}, row.prompt)))) : null,
      h("tr", {}, told.models.map((name) => h("td", {}, at(name, row)?.element || null))),
    ]).filter(Boolean);
    grid.replaceChildren(h("table", {}, h("caption", { class: "unseen" }, "A column for each model"), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
    paint();
  }

  function paint() {
    const counts = {};
    for (const { job } of cells) counts[job?.state || "queued"] = (counts[job?.state || "queued"] || 0) + 1;
    status.textContent = standing(counts, cells.filter((each) => each.deleted).length);
    paintAdder();
    const open = cells.some(({ job }) => !job || !ended(job));
    const failed = (counts.failed || 0) + (counts.cancelled || 0);
    const button = (name, label, run) => h("button", { class: "quiet", onclick: run }, icon(name), label);
    const name = slug(told.prompts[0]);
    const offered = [open, failed, told.models.length, counts.completed > 1].join();
    if (acts.dataset.offered === offered) return; // what has the keyboard keeps it
    acts.dataset.offered = offered;
    acts.replaceChildren(...[
      open ? button("close", "Cancel the rest", () => ask_("cancel")) : null,
      failed && !open ? button("again", failed === 1 ? "Draw the failed one again" : `Draw ${failed} again`, () => ask_("retry")) : null,
      told.models.length > 1 && (counts.completed || 0) > 1 ? h("a", { class: "quiet", href: `/imagine/series/${id}/vote` }, icon("vote"), "Vote blind") : null,
      button("save", "Contact sheet", () => download(`/v1/series/${id}/sheet.png`, name).catch(refused)),
      button("save", "Data", () => download(`/v1/series/${id}/sidecar.json`, name).catch(refused)),
    ].filter(Boolean));
  }

  // Chosen, and then added: the arrow keys of a list choose as they go.
  function paintAdder() {
    const left = state.models.filter((each) => !told.models.includes(each.name) && each.available);
    adder.hidden = !left.length;
    if (adder.dataset.names === left.map((each) => each.name).join()) return;
    adder.dataset.names = left.map((each) => each.name).join();
    const button = h("button", { type: "submit", class: "quiet", disabled: true }, "Add");
    adder.replaceChildren(h("select", { class: "quiet", "aria-label": "Add a model", onchange: (event) => { button.disabled = !event.target.value; } },
      h("option", { value: "" }, "Add a model…"), left.map((each) => h("option", { value: each.name }, each.title))), button);
  }
  function add(event) {
    event.preventDefault();
    const { value } = adder.querySelector("select");
    if (value) ask_("models", { models: [value] });
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
      viewer.open(shown, pictures.indexOf(mine), { using: (job) => { hand(job); go("/imagine"); }, drawn: (again) => { stage(again); go("/imagine"); } });
      return;
    }
    if (!first || first === mine || !first.image) {
      arm(first === mine ? null : mine);
      return;
    }
    const [a, b] = [first, mine];
    arm(null);
    between(side(a), side(b));
  }
  function arm(mine) {
    first?.mark(false);
    first = mine;
    first?.mark(true);
    armed.hidden = !first;
    armed.replaceChildren(...(first ? [h("span", {}, `Now press A/B on another one, to lay it over ${title(first.place.model)}`), h("button", { class: "quiet", onclick: () => arm(null) }, "Never mind")] : []));
  }
  const escape = (event) => { if (event.key === "Escape" && first && !document.querySelector("dialog[open]")) arm(null); };
  document.addEventListener("keydown", escape);
  const side = ({ job, image }) => ({ url: image.url, width: image.width, height: image.height, label: title(job.request.model), alt: job.request.prompt });

  async function load() {
    try {
      const now = await get(`/v1/series/${id}`);
      await haveModels();
      if (!closed) show(now);
    } catch (no) {
      const unknown = no.status === 404;
      heading.textContent = unknown ? "There is no such comparison" : no.message;
      status.replaceChildren(unknown ? h("a", { href: "/imagine/series" }, "See all comparisons") : no.hint);
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
    document.removeEventListener("keydown", escape);
    off.forEach((end) => end());
    for (const each of cells) each.close();
  };
}

function cell(place, pressed) {
  const box = h("div", { class: "spot" });
  const line = h("p", { class: "standing" });
  const sub = h("p", { class: "said" });
  const overlay = h("button", { class: "quiet ab", hidden: true, "aria-pressed": "false", title: "Lay two over each other", onclick: () => pressed("ab", mine) }, "A/B");
  const element = h("div", { class: "cell-of" }, box, h("div", { class: "under" }, h("div", {}, line, sub), overlay));
  let off = () => {};
  let frame = null;
  let drawn = "";
  const mine = {
    place, element, job: null, image: null, deleted: false,
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
    const told = job.state === "failed" ? words.failure(job.error) : job.state === "completed" ? words.timings(job.timings) : words.steps(job);
    sub.replaceChildren(told, h("span", {}, `seed ${place.seed}`));
    const image = job.images.find((each) => each.state === "stored");
    mine.deleted = !image && job.images.length > 0;
    if (!image && ended(job)) {
      frame.lose(mine.deleted ? "This picture was deleted" : "Not drawn");
      mine.image = null;
      overlay.hidden = true;
    }
    if (!image || drawn === image.id) return;
    drawn = image.id;
    mine.image = image;
    try {
      frame.show(await picture(image.url), 1, true);
    } catch {
      return;
    }
    frame.element.append(h("button", { class: "look", "aria-label": `Look at it: ${title(job.request.model)}, seed ${place.seed}`, onclick: () => pressed("look", mine) }));
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
