// The numbers that a report carries with it, asked as the server is: see data.py and report.py.

import { Places } from "./places.js";

const MOST_CELLS = 400;

export class Embedded {
  constructor({ meta, alphabet, analyses }, texts) {
    Object.assign(this, { described: meta, analyses, texts });
    this.digits = new Uint8Array(128);
    for (const [digit, sign] of Array.from(alphabet).entries()) this.digits[sign.charCodeAt(0)] = digit;
    this.base = alphabet.length;
    this.matrices = new Map();
    this.orders = { step: new Places(meta, "step"), depth: new Places(meta, "depth") };
  }

  // The matrix of one variable: five signs a number, above the diagonal only where it is symmetric.
  matrix(name) {
    if (!this.matrices.has(name)) {
      const { count } = this.described, { text, symmetric } = this.texts[name];
      const found = new Float32Array(count * count), bits = new Uint32Array(found.buffer);
      let at = 0;
      for (let row = 0; row < count; row += 1) {
        for (let column = symmetric ? row : 0; column < count; column += 1) {
          let number = 0;
          for (let digit = 0; digit < 5; digit += 1) number = number * this.base + this.digits[text.charCodeAt(at + digit)];
          at += 5;
          bits[row * count + column] = number;
          if (symmetric) bits[column * count + row] = number;
        }
      }
      this.matrices.set(name, found);
    }
    return this.matrices.get(name);
  }

  value(measure, chance, a, b) {
    const at = a * this.described.count + b;
    const { null: reference } = this.described.measures.find(({ name }) => name === measure);
    return this.matrix(measure)[at] - (chance ? this.matrix(reference)[at] : 0);
  }

  // Of a pair that is not computed yet: null where there is no estimate.
  estimate(measure, chance, a, b) {
    const { estimate } = this.described.measures.find(({ name }) => name === measure);
    if (chance || !(estimate in this.texts) || !this.unfinished(a, b)) return null;
    const found = this.matrix(estimate)[a * this.described.count + b];
    return Number.isFinite(found) ? found : null;
  }

  unfinished(a, b) { return this.described.unfinished.includes(this.status(a, b)); }

  status(a, b) { return Number(this.texts.pair_status.text[a * this.described.count + b]); }

  async meta() { return this.described; }

  // Models, or what one model has; neighbours together where there are too many.
  cells(places, [low, high]) {
    for (const [depth, starts] of places.starts.entries()) {
      const inner = starts.filter((start) => low < start && start < high);
      if (!inner.length && depth < 2) continue;
      const edges = [low, ...inner], together = Math.ceil(edges.length / MOST_CELLS);
      const kept = [...edges.filter((_, at) => at % together === 0), high];
      return { level: places.levels[depth], spans: kept.slice(0, -1).map((start, at) => [start, kept[at + 1]]) };
    }
    throw new Error("unreachable");
  }

  async block({ measure, order, a, b, chance }) {
    const places = this.orders[order];
    const [rows, columns] = [this.cells(places, a), this.cells(places, b)];
    const size = rows.spans.length * columns.spans.length;
    const values = new Float64Array(size), counts = new Int32Array(size), estimated = new Int32Array(size);
    let at = 0, smallest = Infinity, largest = -Infinity;
    for (const [top, bottom] of rows.spans) {
      for (const [left, right] of columns.spans) {
        let sum = 0;
        for (let row = top; row < bottom; row += 1) {
          for (let column = left; column < right; column += 1) {
            const pair = [places.places[row], places.places[column]];
            let value = this.value(measure, chance, ...pair);
            if (!Number.isFinite(value)) {
              value = this.estimate(measure, chance, ...pair);
              if (value === null) continue;
              estimated[at] += 1;
            }
            sum += value;
            counts[at] += 1;
            smallest = Math.min(smallest, value);
            largest = Math.max(largest, value);
          }
        }
        values[at] = counts[at] ? sum / counts[at] : Number.NaN;
        at += 1;
      }
    }
    const pairs = [a, b].every(([low, high], side) => high - low === [rows, columns][side].spans.length);
    const status = pairs ? Uint8Array.from({ length: size }, (_, cell) => this.status(
      places.places[a[0] + Math.floor(cell / columns.spans.length)], places.places[b[0] + cell % columns.spans.length])) : null;
    const [low, high] = this.described.measures.find(({ name }) => name === measure).range;
    const limits = [chance ? 0 : low ?? smallest, high ?? largest].map((limit, end) => (Number.isFinite(limit) ? limit : end));
    return { a: rows.spans, b: columns.spans, level_a: rows.level, level_b: columns.level, done: 1, limits, pairs, values, counts, estimated, status };
  }

  async pair({ a, b }) {
    const at = a * this.described.count + b, values = {};
    for (const name of Object.keys(this.texts)) {
      if (name !== "pair_status") values[name] = this.matrix(name)[at];
    }
    for (const [name, value] of Object.entries(values)) if (Number.isNaN(value)) values[name] = null;
    return { a, b, status: this.described.status[this.status(a, b)], unfinished: this.unfinished(a, b), values, details: {} };
  }

  async row({ measure, side, place, top, chance }) {
    const value = (other) => (side === "a" ? this.value(measure, chance, place, other) : this.value(measure, chance, other, place));
    const sign = this.described.measures.find(({ name }) => name === measure).sense === "distance" ? 1 : -1;
    const found = Array.from({ length: this.described.count }, (_, other) => [other, value(other)])
      .filter(([other, number]) => other !== place && Number.isFinite(number))
      .sort(([, x], [, y]) => sign * (x - y));
    return { places: found.slice(0, top).map(([other]) => other), values: found.slice(0, top).map(([, number]) => number), valued: found.length };
  }

  async analysis(name, { measure, labels, model }) {
    const found = this.analyses[JSON.stringify([name, labels ?? measure, model])];
    if (!found) throw new Error("This report does not have this: dask-svcca explore shows it.");
    return found;
  }
}
