// The page: what is chosen stands in the address, and everything shown follows from it.

import { Server } from "./source.js";
import { Embedded } from "./embedded.js";
import { encoded, Places } from "./places.js";
import { drawBar } from "./colours.js";
import { Matrix } from "./matrix.js";
import { element, pairPane, phasesPane, provenancePane, rowPane, settlingPane, shown, zooPane } from "./panes.js";
import { classesPane } from "./classes.js";

const AGAIN = 400;
const PANES = {
  pair: ["Pair", pairPane],
  row: ["Row", rowPane],
  settling: ["Settling", settlingPane],
  phases: ["Phases", phasesPane],
  classes: ["Classes", classesPane],
  zoo: ["Zoo", zooPane],
  provenance: ["Provenance", provenancePane],
};
const find = (id) => document.getElementById(id);

class Page {
  constructor(source) {
    this.source = source;
    this.state = { c: 0 };
    this.together = true;
    this.matrix = new Matrix(find("matrix"), {
      moved: (row, column, byKeyboard) => this.read(row, column, byKeyboard),
      chosen: (row, column) => this.choose(row, column),
      left: () => this.leave(),
    });
    find("comparison").addEventListener("change", (event) => this.load(event.target.selectedIndex, this.fragment()));
    find("measure").addEventListener("change", (event) => this.go({ measure: event.target.value, chance: false }, true));
    find("order").addEventListener("change", (event) => this.arrange(event.target.value));
    find("chance").addEventListener("change", (event) => this.go({ chance: event.target.checked }, true));
    addEventListener("popstate", () => this.load(null, location.hash.slice(1)));
  }

  // Everything from the address, and the names of the comparison anew.
  async load(comparison, fragment) {
    const words = new URLSearchParams(fragment);
    try {
      const c = comparison ?? Number(words.get("c") ?? 0);
      if (!this.meta || c !== this.state.c || comparison !== null) this.meta = await this.source.meta(c);
      this.state = { ...this.understood(words), c };
    } catch (error) {
      this.tell(error);
      return;
    }
    find("note").textContent = this.meta.note ?? "";
    document.title = `${this.meta.name} · dask-svcca`;
    this.go({}, true);
  }

  understood(words) {
    const { meta } = this;
    const known = (name, choices, usual) => (choices.includes(words.get(name)) ? words.get(name) : usual);
    const order = known("order", ["step", "depth", "cluster"], "step");
    this.names = new Places(meta, order);
    const measure = known("measure", meta.measures.map(({ name }) => name), meta.measures[0].name);
    const pair = (words.get("pair") ?? "").split("~").map((text) => this.names.find(names(text, this.names.levels)));
    return {
      order,
      measure,
      chance: words.get("chance") === "1" && meta.measures.find(({ name }) => name === measure).null !== "",
      a: this.names.decode(words.get("a")),
      b: this.names.decode(words.get("b")),
      pair: pair.length === 2 && pair.every(Boolean) ? pair.map(([low]) => this.names.places[low]) : null,
      side: known("side", ["a", "b"], "a"),
      pane: known("pane", this.panes, "pair"),
      labels: known("labels", meta.labels, meta.labels[0]),
    };
  }

  // Classes are there where the zoo has labels.
  get panes() { return Object.keys(PANES).filter((name) => name !== "classes" || this.meta.labels.length); }

  fragment() {
    const { c, order, measure, chance, a, b, pair, side, pane, labels } = this.state;
    const words = new URLSearchParams({ c, measure, order });
    if (chance) words.set("chance", "1");
    for (const [name, span] of [["a", a], ["b", b]]) if (this.names.encode(span)) words.set(name, this.names.encode(span));
    if (pair) words.set("pair", pair.map((place) => this.names.names(place).map(encoded).join("/")).join("~"));
    if (side === "b") words.set("side", side);
    if (labels !== this.meta.labels[0]) words.set("labels", labels);
    words.set("pane", pane);
    return words.toString();
  }

  // Change what is chosen. A change of the same view does not become a step of the browser's history.
  go(change, same = false) {
    this.state = { ...this.state, ...change };
    history[same ? "replaceState" : "pushState"](null, "", `#${this.fragment()}`);
    this.showControls();
    this.showBlock();
    this.showPane();
  }

  // Another order: the models of the view stay.
  arrange(order) {
    const kept = ["a", "b"].map((side) => {
      const [low, high] = this.state[side];
      const models = this.names.places.slice(low, high).map((place) => this.meta.codes.model[place]);
      return models.every((model) => model === models[0]) ? models[0] : null;
    });
    const same = (order === "depth") === (this.state.order === "depth");
    const spans = same ? [this.state.a, this.state.b] : kept.map((model) => {
      const names = new Places(this.meta, order);
      return model === null ? names.whole : names.find([this.meta.names.model[model]]);
    });
    this.names = new Places(this.meta, order);
    this.go({ order, a: spans[0], b: spans[1] });
  }

  // A layer of a model against itself, checkpoint by checkpoint.
  show(model, layer) {
    this.names = new Places(this.meta, "depth");
    const span = this.names.find([model, layer]);
    this.go({ order: "depth", a: span, b: span });
  }

  get measure() { return this.meta.measures.find(({ name }) => name === this.state.measure); }

  measured() { return this.state.chance ? `${this.state.measure} above chance` : this.state.measure; }

  showControls() {
    const { meta, state } = this;
    options(find("comparison"), meta.comparisons, meta.comparisons[state.c]);
    find("comparison").disabled = meta.comparisons.length < 2;
    options(find("measure"), meta.measures.map(({ name }) => name), state.measure);
    find("order").value = state.order;
    find("chance").checked = state.chance;
    find("chance").disabled = !this.measure.null;
    this.showPath("a");
    this.showPath("b");
    this.showSliders();
    const tabs = this.panes.map((name) => element("button", {
      role: "tab", "aria-selected": String(name === state.pane), "aria-controls": "pane", "data-pane": name,
      onclick: () => this.go({ pane: name }, true),
    }, PANES[name][0]));
    const focused = document.activeElement?.dataset?.pane;
    find("tabs").replaceChildren(...tabs);
    if (focused) tabs.find((tab) => tab.dataset.pane === focused)?.focus();
  }

  // Where a side is: each part leads back to it.
  showPath(side) {
    const span = this.state[side], { names } = this;
    const above = [names.whole];
    for (const depth of [0, 1]) {
      const [low, high] = names.around(span[0], depth);
      if (low <= span[0] && span[1] <= high && high - low < names.meta.count) above.push([low, high]);
    }
    if (String(above.at(-1)) !== String(span)) above.push(span);
    const parts = above.filter((part, at) => at === 0 || String(part) !== String(above[at - 1]));
    find(`path-${side}`).replaceChildren(...parts.map((part) => element("button", {
      title: names.label(part), onclick: () => this.go({ [side]: part }),
    }, this.last(part))));
  }

  last(span) {
    if (String(span) === String(this.names.whole)) return this.names.label(span);
    const depth = this.names.ends(span);
    return this.names.short(span, this.names.levels[depth]);
  }

  // Over training, or over layers: from one interval to those beside it.
  showSliders() {
    const { names, state } = this;
    const siblings = Object.fromEntries(["a", "b"].map((side) => [side, names.siblings(state[side])]));
    const usable = ["a", "b"].filter((side) => siblings[side].length > 1);
    const key = usable.map((side) => `${side}${siblings[side][0]}${siblings[side].length}`).join() + state.order;
    if (find("sliders").dataset.key !== key) {
      find("sliders").dataset.key = key;
      find("sliders").replaceChildren(...usable.map((side) => {
        const slider = element("input", { type: "range", min: 0, max: siblings[side].length - 1, id: `slide-${side}` });
        slider.addEventListener("input", () => this.slide(side, Number(slider.value)));
        return element("label", {}, `${names.levels[1]} of ${side}`, slider, element("output", { id: `at-${side}` }));
      }));
      if (usable.length === 2) {
        const box = element("input", { type: "checkbox" });
        box.checked = this.together;
        box.addEventListener("change", () => { this.together = box.checked; });
        find("sliders").append(element("label", {}, box, "both together"));
      }
    }
    for (const side of usable) {
      find(`slide-${side}`).value = siblings[side].findIndex(([low]) => low === state[side][0]);
      find(`at-${side}`).textContent = names.short(state[side], names.levels[1]);
    }
  }

  slide(side, number) {
    const other = side === "a" ? "b" : "a", change = {};
    const [own, others] = [this.names.siblings(this.state[side]), this.names.siblings(this.state[other])];
    change[side] = own[number];
    if (this.together && others.length > 1) {
      const moved = number - own.findIndex(([low]) => low === this.state[side][0]);
      const at = others.findIndex(([low]) => low === this.state[other][0]) + moved;
      change[other] = others[Math.min(Math.max(at, 0), others.length - 1)];
    }
    this.go(change, true);
  }

  async showBlock() {
    this.stale?.abort();
    clearTimeout(this.again);
    this.stale = new AbortController();
    const { c, measure, order, a, b, chance } = this.state;
    const asked = { c, measure, order, a, b, chance }, shows = this.fragment();
    delete find("matrix").dataset.shows;
    try {
      const block = await this.source.block(asked, this.stale.signal);
      if (String(a) !== String(this.state.a) || String(b) !== String(this.state.b)) return;
      this.block = block;
      this.draw();
      find("matrix").dataset.shows = shows;
      if (block.done < 1) this.again = setTimeout(() => this.showBlock(), AGAIN);
    } catch (error) {
      if (error.name !== "AbortError") this.tell(error);
    }
  }

  draw() {
    const { block, names, state } = this, distance = this.measure.sense === "distance";
    const places = (spans) => (state.pair ? spans.map(([low, high]) => (high - low === 1 ? names.places[low] : -1)) : []);
    const selected = state.pair && [places(block.a).indexOf(state.pair[0]), places(block.b).indexOf(state.pair[1])];
    this.matrix.show({
      values: block.values,
      estimated: block.estimated?.some((count) => count > 0) ? block.estimated : null,
      limits: block.limits,
      distance,
      labels_a: block.a.map((span) => names.short(span, block.level_a)),
      labels_b: block.b.map((span) => names.short(span, block.level_b)),
      level_a: block.level_a,
      level_b: block.level_b,
      selected: selected && Math.min(...selected) >= 0 ? selected : null,
    });
    find("matrix").setAttribute("aria-label", `${this.measured()}: ${block.a.length} ${block.level_a}s of ${names.label(state.a)} by ${block.b.length} ${block.level_b}s of ${names.label(state.b)}`);
    find("matrix").dataset.done = block.done;
    find("estimated").hidden = !this.matrix.view.estimated;
    drawBar(find("bar"), distance);
    [find("low").textContent, find("high").textContent] = block.limits.map(shown);
    const waiting = block.done < 1 ? `reading: ${Math.floor(100 * block.done)} %` : "";
    const kind = block.pairs ? "each cell is one pair" : "each cell is the mean of its pairs";
    find("kind").textContent = waiting ? `${kind}; ${waiting}` : kind;
    this.read(...this.matrix.cursor, false);
  }

  describe(row, column) {
    const { block, names } = this, at = row * block.b.length + column;
    const [a, b] = [block.a[row], block.b[column]];
    const [tall, wide] = [a[1] - a[0], b[1] - b[0]];
    const value = `${this.measured()} ${shown(block.values[at])}`;
    const estimated = block.estimated?.[at] ?? 0;
    let what = "";
    if (tall * wide > 1) {
      const lacking = tall * wide - block.counts[at];
      const why = block.counts[at] ? `${lacking} without a value` : "none has one: not asked for, not yet computed, or not comparable";
      what = `, mean of ${tall} × ${wide}${lacking && block.done === 1 ? `, ${why}` : ""}${estimated ? `, ${estimated} estimated` : ""}`;
    } else if (estimated) {
      what = ": estimated, not computed yet";
    } else if (block.status && Number.isNaN(block.values[at])) {
      what = `: ${this.meta.status[block.status[at]]}${block.status[at] === 0 ? " (not asked for, or not yet computed)" : ""}`;
    }
    return `a ${names.label(a)} · b ${names.label(b)} · ${value}${what}`;
  }

  read(row, column, byKeyboard) {
    if (!this.block) return;
    const text = this.describe(row, column);
    find("readout").textContent = text;
    if (byKeyboard) find("live").textContent = text;
  }

  choose(row, column) {
    const [a, b] = [this.block.a[row], this.block.b[column]];
    if (a[1] - a[0] === 1 && b[1] - b[0] === 1) {
      this.go({ pair: [this.names.places[a[0]], this.names.places[b[0]]], pane: this.state.pane === "row" ? "row" : "pair" });
    } else this.go({ a, b });
  }

  leave() {
    const sizes = ["a", "b"].map((side) => this.names.depth(this.state[side]));
    const deepest = Math.max(...sizes);
    const change = {};
    for (const [at, side] of ["a", "b"].entries()) {
      if (sizes[at] === deepest) change[side] = this.names.wider(this.state[side]);
    }
    this.go(change);
  }

  async showPane() {
    const asked = {};
    this.asked = asked;
    find("pane").removeAttribute("data-shows");
    let content;
    try {
      content = await PANES[this.state.pane][1](this);
    } catch (error) {
      content = [element("p", { class: "problem" }, error.message)];
    }
    if (this.asked !== asked) return;
    find("pane").replaceChildren(...content);
    find("pane").dataset.shows = this.fragment();
  }

  tell(error) { find("readout").replaceChildren(element("span", { class: "problem" }, error.message)); }
}

// Model, checkpoint and layer in the order of the levels.
function names(text, levels) {
  const [model, checkpoint, layer] = text.split("/").map(decodeURIComponent);
  return layer === undefined ? [] : levels.map((level) => ({ model, checkpoint, layer })[level]);
}

function options(select, names, chosen) {
  if (select.dataset.names !== JSON.stringify(names)) {
    select.dataset.names = JSON.stringify(names);
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  }
  select.value = chosen;
}

// A report has its numbers in it.
function source() {
  const head = find("embedded");
  if (!head) return new Server();
  const { symmetric, ...rest } = JSON.parse(head.textContent);
  const texts = Array.from(document.querySelectorAll("script[data-name]"), ({ dataset, textContent }) =>
    [dataset.name, { text: textContent, symmetric: symmetric[dataset.name] }]);
  // What is alike is found by the server.
  find("order").querySelector('[value="cluster"]').remove();
  return new Embedded(rest, Object.fromEntries(texts));
}

new Page(source()).load(null, location.hash.slice(1));
