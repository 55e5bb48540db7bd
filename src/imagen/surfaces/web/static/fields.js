// Controls with their names, and what each of them takes: what it does not take is said beside it, and never changed.

import { h } from "./dom.js";

// A number field says what is allowed as soon as it is not; so does whoever asks it with checkValidity().
export function number(label, { value, usual = null, required = false, low = null, high = null, step = "any", help = null, change }) {
  const text = (side) => (side === null ? null : String(side));
  const input = h("input", { type: "number", required, min: text(low), max: text(high), step: String(step), placeholder: text(usual), value: value ?? "", oninput: () => {
    change(input.value === "" ? null : Number(input.value));
    tell();
  } });
  const wrong = h("small", { class: "danger", role: "alert" });
  const range = low === null ? "Only a number" : `Only ${step === 1 ? "whole numbers from " : ""}${low} to ${high}`;
  const tell = () => {
    const fine = input.validity.valid;
    wrong.textContent = fine ? "" : `${range}${step === "any" || step === 1 ? "" : `, in steps of ${step}`}`;
    input.setAttribute("aria-invalid", String(!fine));
  };
  input.addEventListener("invalid", (event) => { event.preventDefault(); tell(); });
  const box = field(label, input, help);
  box.append(wrong);
  return box;
}

export function optionField(name, option, own, keepOne) {
  const change = (value) => { if (value === option.default || value === "" || value === null) delete own[name]; else own[name] = value; keepOne(); };
  const now = own[name] ?? option.default;
  const label = titled(name);
  if (option.choices.length) {
    const select = h("select", { onchange: () => change(option.choices[select.selectedIndex]) }, option.choices.map((one) => h("option", {}, String(one))));
    select.selectedIndex = option.choices.indexOf(now);
    return field(label, select, option.help);
  }
  if (option.type === "bool") {
    return field(label, h("input", { type: "checkbox", checked: Boolean(now), onchange: (event) => change(event.target.checked) }), option.help);
  }
  if (option.type === "int" || option.type === "float") {
    const [low, high] = option.range || [null, null];
    return number(label, { value: own[name], usual: option.default, low, high, step: option.type === "int" ? 1 : "any", help: option.help, change });
  }
  return field(label, h("input", { type: "text", dir: "auto", value: own[name] ?? "", placeholder: String(option.default ?? ""), oninput: (event) => change(event.target.value) }), option.help);
}

const titled = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

// A control with its name and, beside the name and not in it, what it does.
let fields = 0;
export function field(name, control, help) {
  const id = `field-${(fields += 1)}`;
  control.id = id;
  if (help) control.setAttribute("aria-describedby", `${id}-help`);
  const label = h("label", { for: id }, name);
  const check = control.type === "checkbox";
  return h("div", { class: check ? "one check" : "one" }, check ? [control, label] : [label, control], help ? h("small", { id: `${id}-help` }, help) : null);
}
