// Two pictures, one over the other, and a line between them that is moved: what one model did and the other did not.

import { picture } from "./api.js";
import { h, icon } from "./dom.js";
import { over } from "./over.js";

export async function between(a, b) {
  const ratio = a.width / a.height;
  const images = [h("img", { alt: `${a.alt}, by ${a.label}` }), h("img", { alt: `${b.alt}, by ${b.label}`, class: "over" })];
  const slider = h("input", { type: "range", min: "0", max: "100", step: "0.5", value: "50", "aria-label": `How much of ${a.label} covers ${b.label}`, oninput: () => lay() });
  const both = h("div", { class: "both" }, images, h("span", { class: "edge-of", "aria-hidden": "true" }), slider,
    h("b", { class: "tag left" }, a.label), h("b", { class: "tag right" }, b.label));
  const dialog = h("dialog", { class: "between", "aria-label": `${a.label} and ${b.label}` },
    h("div", { class: "pane" }, both), h("button", { class: "round shut", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")));
  both.style.setProperty("--ratio", String(ratio));
  const lay = () => {
    both.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${Math.round(slider.value)} percent ${a.label}`);
  };
  lay();
  over(dialog, slider);
  for (const [at, side] of [a, b].entries()) images[at].src = await picture(side.url);
}
