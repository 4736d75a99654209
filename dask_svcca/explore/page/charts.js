// Lines over training steps, or over anything else that is counted.

import { css, textSize } from "./colours.js";

const INKS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];
const DASHES = [[], [6, 3], [2, 2]];

export function ink(number) { return INKS[number % INKS.length]; }

function dashes(number) { return DASHES[Math.floor(number / INKS.length) % DASHES.length]; }

// The line of a legend: in the colour and with the dashes of the chart.
export function drawKey(canvas, number) {
  const context = canvas.getContext("2d");
  context.strokeStyle = ink(number);
  context.lineWidth = 1.6;
  context.setLineDash(dashes(number));
  line(context, [[0, canvas.height / 2], [canvas.width, canvas.height / 2]]);
}

// Steps are spread as their logarithms are, and 0 has a place of its own.
const spread = (x) => Math.sign(x) * Math.log10(1 + Math.abs(x));

// series: [{name, values}], with one value, or null, for each of xs.
export function drawLines(canvas, { xs, series, low, high, xLabel, yLabel, logarithmic }) {
  const density = devicePixelRatio || 1, wide = canvas.clientWidth, tall = canvas.clientHeight;
  [canvas.width, canvas.height] = [Math.round(wide * density), Math.round(tall * density)];
  const context = canvas.getContext("2d");
  context.scale(density, density);
  const size = textSize(11);
  context.font = `${size}px system-ui, "DejaVu Sans", sans-serif`;
  // The last number stands under the end of the lines, and the label of y above its first.
  const margin = Math.max(10, context.measureText(String(xs.at(-1))).width / 2 + 2);
  const [left, top, right, bottom] = [4 * size - 2, 2 * size + 2, wide - margin, tall - 3 * size - 1];
  const moved = logarithmic ? spread : (x) => x;
  const [first, last] = [moved(xs[0]), moved(xs.at(-1))];
  const x = (value) => left + (right - left) * (last > first ? (moved(value) - first) / (last - first) : 0.5);
  const y = (value) => bottom - (bottom - top) * (high > low ? (value - low) / (high - low) : 0.5);
  context.strokeStyle = css("--line");
  context.fillStyle = css("--soft");
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const value = low + (high - low) * part;
    line(context, [[left, y(value)], [right, y(value)]]);
    context.fillText(String(Number(value.toPrecision(3))), left - 5, y(value));
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  let free = -Infinity;
  for (const value of xs) {
    const text = String(value), half = context.measureText(text).width / 2 + 4;
    if (x(value) - half < free) continue;
    context.fillText(text, x(value), bottom + 5);
    free = x(value) + half;
  }
  context.fillText(xLabel, (left + right) / 2, bottom + size + 8);
  context.textAlign = "left";
  context.fillText(yLabel, 4, 1);
  context.lineWidth = 1.6;
  for (const [number, { values }] of series.entries()) {
    context.strokeStyle = ink(number);
    context.setLineDash(dashes(number));
    let points = [];
    for (const [at, value] of [...values, null].entries()) {
      if (value !== null) points.push([x(xs[at]), y(value)]);
      else { line(context, points); points = []; }
    }
  }
}

function line(context, points) {
  context.beginPath();
  for (const [at, [x, y]] of points.entries()) {
    if (at) context.lineTo(x, y); else context.moveTo(x, y);
  }
  if (points.length === 1) context.arc(...points[0], 2, 0, 2 * Math.PI);
  context.stroke();
}
