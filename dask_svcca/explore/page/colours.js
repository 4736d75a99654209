// Colours of values: from dark to light as similarity grows, also for those who see no red or green.

const STOPS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
];

// Red, green and blue of a share from 0 to 1; what lies outside has the colour of the end.
export function colour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((from, band) => Math.round(from + (STOPS[low + 1][band] - from) * (at - low)));
}

// The share of a value between the limits of its measure; of a distance, 1 where it is smallest.
export function share(value, [low, high], distance) {
  const part = high > low ? (value - low) / (high - low) : 0.5;
  return distance ? 1 - part : part;
}

export function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

export function drawBar(canvas, distance) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    const part = x / (canvas.width - 1);
    context.fillStyle = `rgb(${colour(distance ? 1 - part : part).join(",")})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}

// A size of text on a canvas, which grows with the text of the page; at the usual size, that of the argument.
export function textSize(pixels) { return Math.round(pixels * Number.parseFloat(getComputedStyle(document.documentElement).fontSize) / 14); }
