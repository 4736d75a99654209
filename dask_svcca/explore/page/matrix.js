// The matrix on a canvas: cells, names beside them, and a cursor that the mouse and the arrow keys move.

import { colour, css, share, textSize } from "./colours.js";

const LABEL = 12, MOST_LABEL = 170;
const label = () => textSize(LABEL), mostLabel = () => textSize(MOST_LABEL);
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0] };

export class Matrix {
  // moved(row, column, byKeyboard) is called with the cell under the cursor, chosen(row, column) and left() on the rest.
  constructor(canvas, { moved, chosen, left }) {
    this.canvas = canvas;
    this.view = null;
    this.cursor = [0, 0];
    this.moved = moved;
    canvas.addEventListener("mousemove", (event) => {
      const cell = this.cellAt(event);
      if (cell && String(cell) !== String(this.cursor)) this.move(...cell, false);
    });
    canvas.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell) { this.move(...cell, false); chosen(...cell); }
    });
    canvas.addEventListener("keydown", (event) => {
      if (!this.view || event.ctrlKey || event.altKey || event.metaKey) return;
      const [row, column] = this.cursor;
      if (event.key in STEPS) this.move(row + STEPS[event.key][0], column + STEPS[event.key][1], true);
      else if (event.key === "Home") this.move(row, 0, true);
      else if (event.key === "End") this.move(row, this.columns - 1, true);
      else if (event.key === "Enter" || event.key === " ") chosen(row, column);
      else if (event.key === "Escape" || event.key === "Backspace") left();
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("focus", () => this.view && this.move(...this.cursor, true));
    canvas.addEventListener("blur", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  get rows() { return this.view.labels_a.length; }

  get columns() { return this.view.labels_b.length; }

  show(view) {
    this.view = view;
    this.none = css("--none");
    this.image = this.painted();
    this.hatching = null;
    this.cursor = [Math.min(this.cursor[0], this.rows - 1), Math.min(this.cursor[1], this.columns - 1)];
    this.draw();
  }

  move(row, column, byKeyboard) {
    this.cursor = [Math.min(Math.max(row, 0), this.rows - 1), Math.min(Math.max(column, 0), this.columns - 1)];
    this.draw();
    this.moved(...this.cursor, byKeyboard);
  }

  cellAt(event) {
    if (!this.view || !this.place) return null;
    const { left, top, width, height } = this.place;
    const row = Math.floor((event.offsetY - top) / height * this.rows);
    const column = Math.floor((event.offsetX - left) / width * this.columns);
    return row >= 0 && row < this.rows && column >= 0 && column < this.columns ? [row, column] : null;
  }

  painted() { return painted({ ...this.view, rows: this.rows, columns: this.columns }); }

  draw() {
    if (!this.view) return;
    const { canvas } = this, density = devicePixelRatio || 1;
    const [wide, tall] = [canvas.clientWidth, canvas.clientHeight];
    if (!wide || !tall) return;
    [canvas.width, canvas.height] = [Math.round(wide * density), Math.round(tall * density)];
    const context = canvas.getContext("2d");
    context.scale(density, density);
    context.font = `${label()}px system-ui, "DejaVu Sans", sans-serif`;
    const longest = (labels) => Math.ceil(Math.min(mostLabel(), labels.reduce((most, text) =>
      Math.max(most, context.measureText(text.slice(0, 60)).width), 20))) + 8;
    const title = label() + 8;
    const left = longest(this.view.labels_a) + title, top = longest(this.view.labels_b) + title;
    const [free_x, free_y] = [wide - left - 8, tall - top - 4];
    const side = Math.max(1, Math.min(free_x / this.columns, free_y / this.rows));
    const square = side * Math.max(this.rows, this.columns) >= 0.6 * Math.min(free_x, free_y);
    const width = square ? side * this.columns : free_x, height = square ? side * this.rows : free_y;
    this.place = { left, top, width, height };
    Object.assign(canvas.dataset, { ...this.place, rows: this.rows, columns: this.columns });
    context.imageSmoothingEnabled = false;
    context.drawImage(this.paintedForScheme(), left, top, width, height);
    if (this.view.estimated) context.drawImage(this.hatched(width * density, height * density), left, top, width, height);
    this.drawLabels(context);
    this.drawCursor(context);
  }

  // Lines over the cells that have an estimate, and nothing over the others.
  hatched(wide, tall) {
    const size = [Math.round(wide), Math.round(tall)];
    if (String(this.hatching?.size) === String(size)) return this.hatching.canvas;
    const mask = new ImageData(this.columns, this.rows);
    for (const [at, count] of this.view.estimated.entries()) mask.data[4 * at + 3] = count ? 255 : 0;
    const small = document.createElement("canvas"), canvas = document.createElement("canvas");
    [small.width, small.height] = [this.columns, this.rows];
    small.getContext("2d").putImageData(mask, 0, 0);
    [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, ...size);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = context.createPattern(hatch(), "repeat");
    context.fillRect(0, 0, ...size);
    this.hatching = { size, canvas };
    return canvas;
  }

  paintedForScheme() {
    const none = css("--none");
    if (none !== this.none) [this.none, this.image] = [none, this.painted()];
    return this.image;
  }

  drawLabels(context) {
    const { left, top, width, height } = this.place;
    context.fillStyle = css("--ink");
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = (count, length) => Math.ceil((label() + 2) * count / length);
    const step_a = every(this.rows, height), step_b = every(this.columns, width);
    for (let row = 0; row < this.rows; row += step_a) {
      context.fillText(fitted(context, this.view.labels_a[row]), left - 6, top + height * (row + 0.5) / this.rows);
    }
    context.textAlign = "left";
    for (let column = 0; column < this.columns; column += step_b) {
      context.save();
      context.translate(left + width * (column + 0.5) / this.columns, top - 6);
      context.rotate(-Math.PI / 2);
      context.fillText(fitted(context, this.view.labels_b[column]), 0, 0);
      context.restore();
    }
    context.fillStyle = css("--soft");
    context.textAlign = "left";
    context.fillText(`b: ${this.view.level_b}s →`, left, label() / 2 + 1);
    context.save();
    context.translate(label() / 2 + 2, top);
    context.rotate(-Math.PI / 2);
    context.textAlign = "right";
    context.fillText(`← a: ${this.view.level_a}s`, 0, 0);
    context.restore();
  }

  drawCursor(context) {
    const { left, top, width, height } = this.place;
    const outlined = (row, column, style, thick) => {
      const [x, y] = [left + width * column / this.columns, top + height * row / this.rows];
      context.strokeStyle = style;
      context.lineWidth = thick;
      context.strokeRect(x - 1, y - 1, width / this.columns + 2, height / this.rows + 2);
    };
    if (this.view.selected) outlined(...this.view.selected, "#ff3b6b", 3);
    outlined(...this.cursor, css("--paper"), 4);
    outlined(...this.cursor, css("--ink"), 2);
  }
}

// One pixel a cell; it is enlarged when it is drawn.
function painted({ values, rows, columns, limits, distance }) {
  const image = new ImageData(columns, rows);
  const none = rgb(css("--none"));
  for (let at = 0; at < values.length; at += 1) {
    const [red, green, blue] = Number.isNaN(values[at]) ? none : colour(share(values[at], limits, distance));
    image.data.set([red, green, blue, 255], 4 * at);
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// A tile of slanted lines, white with a dark edge: seen on light colours and on dark ones.
function hatch() {
  const density = devicePixelRatio || 1, side = Math.round(11 * density);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [side, side];
  const context = canvas.getContext("2d");
  for (const [style, thick] of [["#1c2330", 2.4 * density], ["#ffffff", 1.2 * density]]) {
    context.strokeStyle = style;
    context.lineWidth = thick;
    context.beginPath();
    // Three lines, so that the corners of the tile meet their neighbours.
    for (const shift of [-side, 0, side]) {
      context.moveTo(shift - 1, side + 1);
      context.lineTo(shift + side + 1, -1);
    }
    context.stroke();
  }
  return canvas;
}

// Cells alone, as large as the canvas.
export function drawCells(canvas, view) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(painted(view), 0, 0, canvas.width, canvas.height);
}

function rgb(text) { return [1, 3, 5].map((at) => Number.parseInt(text.slice(at, at + 2), 16)); }

// A name as far as there is room for it, with its beginning and its end.
function fitted(context, text) {
  const room = mostLabel();
  if (text.length < 200 && context.measureText(text).width <= room) return text;
  const signs = Array.from(text);
  let kept = Math.min(signs.length, 40);
  const cut = () => `${signs.slice(0, Math.ceil(kept / 2)).join("")}…${signs.slice(signs.length - Math.floor(kept / 2)).join("")}`;
  while (kept > 2 && context.measureText(cut()).width > room) kept -= 1;
  return cut();
}
