// What stands beside the matrix. All text is set as text; nothing of a name becomes markup.

import { drawKey, drawLines, ink } from "./charts.js";
import { drawCells } from "./matrix.js";

const ROWS = 200;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false) made.setAttribute(key, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(child))));
  return made;
}

// A number as it is shown: six digits; what is not there is said.
export function shown(value) {
  return value === null || value === undefined || Number.isNaN(value) ? "no value" : String(Number(value.toPrecision(6)));
}

function table(heads, rows, numeric = []) {
  const kind = (at) => (numeric.includes(at) ? { class: "number" } : heads[at] === "" ? { class: "key" } : {});
  const cell = (name, content, at) => element(name, kind(at), content);
  return element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head, at) => cell("th", head, at)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((content, at) => cell("td", content, at))))));
}

function chart(label, drawn) {
  const canvas = element("canvas", { class: "chart", role: "img", "aria-label": label });
  new ResizeObserver(() => canvas.clientWidth && drawLines(canvas, drawn)).observe(canvas);
  return canvas;
}

export const hint = (text) => element("p", { class: "soft" }, text);

export async function pairPane(page) {
  const { state, meta, source } = page;
  if (!state.pair) return [hint("Choose a cell that is one pair: all that is stored of it is shown here.")];
  const [a, b] = state.pair;
  const found = await source.pair({ c: state.c, a, b });
  const references = new Map(meta.measures.map(({ name, null: reference }) => [name, reference]));
  const measures = meta.measures.filter(({ name }) => name in found.values);
  // Of what is not computed yet there may be an estimate, which never stands alone.
  const estimates = new Map(measures.filter(({ name, estimate }) => estimate && found.values[name] === null && found.values[estimate] !== null && found.unfinished)
    .map(({ name, estimate }) => [name, [estimate, `${estimate}_error`]]));
  const nulls = new Set([...references.values(), ...[...estimates.values()].flat()]);
  const others = Object.keys(found.values).filter((name) => !references.has(name) && !nulls.has(name)).sort();
  const number = (name) => element("span", { "data-value": name }, shown(found.values[name]));
  const made = [
    element("h2", {}, page.names.representation(a), " × ", page.names.representation(b)),
    element("p", {}, "Status: ", element("b", { "data-value": "pair_status" }, found.status)),
    ...[a, b].filter((place) => meta.problems[place]).map((place) => element("p", { class: "problem" }, meta.problems[place])),
    table(["measure", "value", "by chance"], measures.map(({ name, description, sense }) => [
      element("span", { title: description }, sense === "distance" ? `${name} (distance)` : name),
      number(name),
      references.get(name) ? number(references.get(name)) : "",
    ]), [1, 2]),
    ...[...estimates].map(([name, [estimate, error]]) => element("p", { class: "estimate" },
      `${name} is not computed yet: estimated, `, number(estimate), " ± ", number(error), " (standard error)")),
  ];
  if (others.length) made.push(element("h3", {}, "To read them by"), table(["reference", "value"], others.map((name) => [name, number(name)]), [1]));
  const sides = [["model", (place) => page.names.names(place)[0]], ["checkpoint", (place) => page.names.names(place)[1]],
    ["layer", (place) => page.names.names(place)[2]],
    ...Object.keys(meta.columns).map((name) => [name.replace("_", " "), (place) => element("span", { "data-column": name }, shown(meta.columns[name][place]))])];
  made.push(element("h3", {}, "The two"), table(["", "a", "b"], sides.map(([name, text]) => [name, text(a), text(b)])));
  const correlations = (found.details.correlations ?? []).filter((value) => value !== null);
  if (correlations.length) {
    made.push(element("h3", {}, `Canonical correlations: ${correlations.length}`),
      chart("Canonical correlations, descending", {
        xs: correlations.map((_, at) => at + 1), series: [{ name: "correlation", values: correlations }], low: 0, high: 1,
        xLabel: "direction", yLabel: "correlation", logarithmic: false,
      }),
      element("p", { class: "soft", "data-correlations": true }, correlations.map(shown).join(" ")));
  }
  if (found.details.svcca_by_frequency) {
    made.push(element("h3", {}, "By spatial frequency"),
      table(found.details.svcca_by_frequency[0].map(() => ""), found.details.svcca_by_frequency.map((row) => row.map(shown))));
  }
  made.push(element("h3", {}, "In Python"), element("code", { id: "python" },
    `import xarray as xr\nxr.open_zarr(${python(meta.place)}).sel(representation_a=${python(page.names.representation(a))}, representation_b=${python(page.names.representation(b))}).load()`));
  return made;
}

// Text as Python reads it: JSON's strings are a part of Python's.
const python = (text) => JSON.stringify(text.replace(/^file:\/\//, ""));

export async function rowPane(page) {
  const { state, source } = page;
  if (!state.pair) return [hint("Choose a pair: what is most similar to one of its two is listed here.")];
  const side = state.side, place = state.pair[side === "a" ? 0 : 1];
  const found = await source.row({ c: state.c, measure: state.measure, side, place, top: ROWS, chance: state.chance });
  const pair = (other) => (side === "a" ? [place, other] : [other, place]);
  return [
    element("div", { class: "several" }, ...["a", "b"].map((one) => element("button", {
      "aria-pressed": String(one === side), onclick: () => page.go({ side: one }, true),
    }, `to ${one}`))),
    element("h2", {}, `${page.measured()} of `, page.names.representation(place), ` as ${side}`),
    hint(`${found.places.length} of ${found.valued} representations with a value, the most similar first`),
    table(["representation", "value"], found.places.map((other, at) => [
      element("button", { onclick: () => page.go({ pair: pair(other), pane: "pair" }) }, page.names.representation(other)),
      element("span", {}, shown(found.values[at])),
    ]), [1]),
  ];
}

export async function zooPane(page) {
  const { meta, names } = page;
  const models = names.starts[0].map((start) => [start, names.end(names.starts[0], start)]);
  const several = (places, values) => new Set(places.map((place) => values[place])).size;
  const row = (span) => {
    const places = names.places.slice(...span);
    const steps = places.map((place) => meta.columns.step[place]).filter((step) => step !== null);
    const ranks = places.map((place) => meta.columns.rank[place]).filter((rank) => rank > 0);
    return [
      element("button", { onclick: () => page.go({ a: span, b: span }) }, names.name("model", span[0])),
      several(places, meta.codes.checkpoint), steps.length ? between(steps) : "", several(places, meta.codes.layer),
      places.length, ranks.length ? between(ranks) : "", places.filter((place) => meta.problems[place]).length || "",
    ].map((content) => (typeof content === "number" ? String(content) : content));
  };
  const shownRows = names.places.slice(...page.state.a).slice(0, ROWS);
  const total = page.state.a[1] - page.state.a[0];
  return [
    element("h2", {}, `${meta.count} representations of ${models.length} model${models.length === 1 ? "" : "s"}`),
    table(["model", "checkpoints", "steps", "layers", "representations", "directions kept", "failed"], models.slice(0, ROWS).map(row), [1, 2, 3, 4, 5, 6]),
    models.length > ROWS ? hint(`and ${models.length - ROWS} more models`) : "",
    element("h3", {}, `Side a of the view: ${Math.min(total, ROWS)} of ${total}`),
    table(["representation", "step", "depth", "rank", "neurons", "samples", "variance kept", "problem"], shownRows.map((place) => [
      element("span", { class: "label" }, names.representation(place)),
      ...["step", "depth", "rank", "neurons", "samples", "variance_kept"].map((name) => shown(meta.columns[name][place])),
      meta.problems[place] ?? "",
    ]), [1, 2, 3, 4, 5, 6]),
  ].filter(Boolean);
}

function between(numbers) {
  const [low, high] = [numbers.reduce((x, y) => Math.min(x, y)), numbers.reduce((x, y) => Math.max(x, y))];
  return low === high ? shown(low) : `${shown(low)} to ${shown(high)}`;
}

export async function provenancePane(page) {
  const { meta } = page;
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const { parameters = {}, ...rest } = meta.provenance;
  const stages = [...new Set(meta.runs.flatMap((run) => Object.keys(run.stages)))].sort();
  const rows = Object.entries({ place: meta.place, ...rest }).filter(([, value]) => typeof value !== "object");
  return [
    element("h2", {}, "Where it comes from"),
    table(["", ""], rows.map(([name, value]) => [name, text(value)])),
    element("h3", {}, "Parameters"),
    table(["", ""], Object.entries(parameters).map(([name, value]) => [name, text(value)])),
    element("h3", {}, "Measures"),
    table(["", ""], meta.measures.map(({ name, description, reference }) => [name, `${description}. ${reference}`])),
    element("h3", {}, "Runs, in seconds"),
    meta.runs.length ? table(["finished", "seconds", "workers", "pairs", ...stages, "overhead"], meta.runs.map((run) => [
      run.finished, shown(run.seconds), String(run.workers), String(run.pairs),
      ...stages.map((stage) => shown(run.stages[stage] ?? 0)), shown(run.overhead),
    ]), [1, 2, 3, ...stages.map((_, at) => at + 4), stages.length + 4]) : hint("No run has computed a pair yet."),
  ];
}

// Some panes are about one model: the first of side a.
export function modelOf(page) { return page.names.name("model", page.state.a[0]); }

export async function settlingPane(page) {
  const { state, source } = page, model = modelOf(page);
  const found = await source.analysis("settling", { c: state.c, measure: state.measure, model });
  const [low, high] = limits(page.measure, found.similarity.flat().filter((value) => value !== null));
  const series = found.layers.map((name, at) => ({ name, values: found.similarity[at] }));
  return [
    element("h2", {}, `${state.measure} of each layer of `, model, " to its final self"),
    chart(`${state.measure} to the final checkpoint over training; the table below has when each layer settles`, {
      xs: found.steps, series, low, high, xLabel: "training step", yLabel: state.measure, logarithmic: true,
    }),
    legend(series),
    hint(`Rank correlation of depth and settled step: ${shown(found.correlation)}. A layer settles at the step from which it stays near its final self; one with few directions may look settled from the start.`),
    table(["layer", "settled at step", "directions kept", ...found.steps.map(String)], found.layers.map((name, at) => [
      name, shown(found.settled[at]), shown(found.rank[at]), ...found.similarity[at].map((value) => (value === null ? "–" : value.toFixed(2))),
    ]), [1, 2, ...found.steps.map((_, at) => at + 3)]),
  ];
}

export async function phasesPane(page) {
  const { state, source } = page, model = modelOf(page);
  const found = await source.analysis("phases", { c: state.c, measure: state.measure, model });
  const bounds = limits(page.measure, found.values.flat(2).filter((value) => value !== null));
  const one = (layer, at) => {
    const canvas = element("canvas", { width: 96, height: 96, "aria-hidden": "true" });
    const cells = found.values[at].flat().map((value) => value ?? Number.NaN);
    drawCells(canvas, { values: cells, rows: found.checkpoints.length, columns: found.checkpoints.length, limits: bounds, distance: page.measure.sense === "distance" });
    return element("button", { class: "tile", title: layer, onclick: () => page.show(model, layer) }, canvas, element("span", {}, layer));
  };
  return [
    element("h2", {}, `Phases of training of `, model),
    hint(`Checkpoints of each layer against one another, ${state.measure}: phases are blocks along the diagonal. ${found.layers.length} of ${found.available} layers; choose one to see it large.`),
    element("div", { class: "several" }, ...found.layers.map(one)),
  ];
}

// Bounds of a measure, or of some values where it has none; there may be more of these than a function takes.
function limits({ range }, values) {
  return range.map((bound, end) => bound ?? values.reduce((x, y) => (end ? Math.max(x, y) : Math.min(x, y)), values[0] ?? end));
}

function legend(series) {
  return element("div", { class: "several" }, ...series.map(({ name }, number) => {
    const key = element("canvas", { width: 26, height: 8, "aria-hidden": "true" });
    drawKey(key, number);
    const made = element("span", {}, key, ` ${name}`);
    made.style.setProperty("color", ink(number));
    return made;
  }));
}
