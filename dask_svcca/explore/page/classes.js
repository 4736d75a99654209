// How well each layer of a model tells each class: the numbers on the colours of the matrix.

import { colour, css } from "./colours.js";
import { element, hint, modelOf, shown } from "./panes.js";

export async function classesPane(page) {
  const { state, meta, source, names } = page, model = modelOf(page);
  const found = await source.analysis("classes", { c: state.c, labels: state.labels, model });
  const last = found.checkpoints.length - 1;
  // Where side a is at one checkpoint, that one is shown; else the final one.
  const at = names.levels[1] === "checkpoint" && names.depth(state.a) > 0 ? found.checkpoints.indexOf(names.name("checkpoint", state.a[0])) : -1;
  const body = element("tbody"), output = element("output", { id: "at-classes" });
  const slider = element("input", { type: "range", id: "slide-classes", min: 0, max: last });
  const show = () => {
    const number = Number(slider.value);
    output.textContent = found.checkpoints[number];
    body.replaceChildren(...found.layers.flatMap((layer, place) => rows(found, layer, place, number)));
  };
  slider.addEventListener("input", show);
  slider.value = at < 0 ? last : at;
  show();
  const some = (name, count) => (count < found.available[name] ? `${count} of ${found.available[name]}` : `${count}`);
  const labels = meta.labels.length > 1 ? [element("div", { class: "several" }, ...meta.labels.map((one) => element("button", {
    "aria-pressed": String(one === state.labels), onclick: () => page.go({ labels: one }, true),
  }, one)))] : [];
  return [
    element("h2", {}, `Classes by `, state.labels, ` in each layer of `, model),
    ...labels,
    ...(last > 0 ? [element("label", { class: "several" }, "checkpoint", slider, output)] : []),
    hint(`Multiple correlation of each class with all directions of a layer, from 0 to 1. ${some("class", found.classes.length)} classes, ${some("checkpoint", last + 1)} checkpoints. Below each layer it is shown untrained${found.first_step === null ? ", where steps are known" : `, at step ${shown(found.first_step)}`}. Chance: what labels that have nothing to do with the layer would have; it grows with the rank.`),
    element("table", { class: "classes" },
      element("thead", {}, element("tr", {},
        element("th", { class: "name" }, "layer"),
        ...["rank", "chance"].map((text) => element("th", {}, text)),
        ...found.classes.map((name) => element("th", { class: "class", title: name }, name)))),
      body),
  ];
}

// A layer at one checkpoint, and untrained.
function rows(found, layer, place, number) {
  const untrained = found.untrained[place], first = found.first_step;
  const begun = found.steps.indexOf(first);
  const both = first !== null && begun !== number && untrained.some((value) => value !== null);
  const row = (name, at, values, attributes) => element("tr", { "data-layer": layer, ...attributes },
    element("td", { class: "name", title: name }, name),
    element("td", {}, whole(found.rank[at]?.[place])),
    element("td", {}, short(found.chance[at]?.[place])),
    ...values.map(cell));
  const made = [row(layer, number, found.values[number][place], { "data-row": "shown" })];
  if (both) made.push(row("untrained", begun, untrained, { "data-row": "untrained", class: "soft" }));
  return made;
}

function cell(value) {
  const made = element("td", { title: shown(value) }, short(value));
  const [red, green, blue] = value === null ? [] : colour(value);
  made.style.setProperty("background", value === null ? css("--none") : `rgb(${red},${green},${blue})`);
  made.style.setProperty("color", value === null || 0.3 * red + 0.59 * green + 0.11 * blue > 130 ? "#000000" : "#ffffff");
  return made;
}

const short = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
const whole = (value) => (value === null || value === undefined ? "–" : String(value));
