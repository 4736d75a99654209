// Names of what a view shows. A view is an interval of each side, in an order in which models, checkpoints and layers
// are intervals; see order.py.

const ALL = "all models";

export class Places {
  constructor(meta, arrangement) {
    this.meta = meta;
    const order = arrangement === "cluster" ? "step" : arrangement;
    this.levels = meta.levels[order];
    this.places = meta.orders[order].places;
    this.starts = [...meta.orders[order].starts, this.places.map((_, at) => at)];
    this.inside = this.starts.map((starts) => new Set([...starts, meta.count]));
  }

  get whole() { return [0, this.meta.count]; }

  name(level, position) {
    return this.meta.names[level][this.meta.codes[level][this.places[position]]];
  }

  path(position, depth) {
    return this.levels.slice(0, depth + 1).map((level) => this.name(level, position));
  }

  // How deep an interval is: 0 for a model, 1 for what it has, 2 for one representation; -1 where it is none of these.
  depth([low, high]) {
    for (const [depth, starts] of this.starts.entries()) {
      if (this.inside[depth].has(low) && this.end(starts, low) === high) return depth;
    }
    return -1;
  }

  end(starts, low) { return starts[after(starts, low)] ?? this.meta.count; }

  start(starts, position) { return starts[after(starts, position) - 1]; }

  // The interval of one depth that a position is in.
  around(position, depth) {
    const low = this.start(this.starts[depth], position);
    return [low, this.end(this.starts[depth], low)];
  }

  // The next wider interval; the whole where there is none between.
  wider([low, high]) {
    for (const depth of [1, 0]) {
      const [from, to] = this.around(low, depth);
      if (from <= low && high <= to && (from < low || high < to)) return [from, to];
    }
    return this.whole;
  }

  // Intervals beside one another: all checkpoints of the model of a checkpoint, say.
  siblings(span) {
    if (this.depth(span) !== 1) return [];
    const [low, high] = this.around(span[0], 0);
    return this.starts[1].filter((start) => low <= start && start < high).map((start) => [start, this.end(this.starts[1], start)]);
  }

  // Depth of the ends of an interval: the widest at which both are ends.
  ends([low, high]) { return this.inside.findIndex((starts) => starts.has(low) && starts.has(high)); }

  label(span) {
    if (span[0] === 0 && span[1] === this.meta.count) return ALL;
    const depth = this.ends(span);
    const first = this.path(span[0], depth).join(" / ");
    const [low, high] = [this.around(span[0], depth), this.around(span[1] - 1, depth)];
    return low[0] === high[0] ? first : `${first} to ${this.path(span[1] - 1, depth).join(" / ")}`;
  }

  // What tells a cell from its neighbours.
  short(span, level) {
    const [first, last] = [this.name(level, span[0]), this.name(level, span[1] - 1)];
    return first === last ? first : `${first} … ${last}`;
  }

  encode(span) {
    if (span[0] === 0 && span[1] === this.meta.count) return "";
    const depth = this.ends(span);
    const text = (position) => this.path(position, depth).map(encoded).join("/");
    const [first, last] = [text(span[0]), text(span[1] - 1)];
    return first === last ? first : `${first}~${last}`;
  }

  decode(text) {
    if (!text) return this.whole;
    const found = text.split("~").map((part) => this.find(part.split("/").map(decodeURIComponent)));
    if (found.some((span) => span === null)) return this.whole;
    const [low, high] = [found[0][0], found.at(-1)[1]];
    return low < high ? [low, high] : this.whole;
  }

  find(names) {
    const depth = names.length - 1;
    if (depth < 0 || depth > 2) return null;
    const codes = names.map((name, at) => this.meta.names[this.levels[at]].indexOf(name));
    const start = this.starts[depth].find((position) => codes.every((code, at) =>
      this.meta.codes[this.levels[at]][this.places[position]] === code));
    return start === undefined ? null : [start, this.end(this.starts[depth], start)];
  }

  // Model, checkpoint and layer of a representation, by its place in the comparison.
  names(place) { return ["model", "checkpoint", "layer"].map((level) => this.meta.names[level][this.meta.codes[level][place]]); }

  representation(place) { return this.names(place).join("/"); }
}

// A name as it stands in the address, where "/" and "~" come between names.
export const encoded = (name) => encodeURIComponent(name).replaceAll("~", "%7E");

// How many of ascending starts are not beyond a position.
function after(starts, position) {
  let from = 0, to = starts.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (starts[middle] <= position) from = middle + 1; else to = middle;
  }
  return from;
}
