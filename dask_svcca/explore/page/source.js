// Where the numbers come from: the server that sent this page, or what a report carries with it.

const words = (asked) => new URLSearchParams(Object.entries(asked).map(([name, value]) =>
  [name, Array.isArray(value) ? value.join(":") : value === true ? "1" : String(value)]));

async function fetched(name, asked, signal) {
  const answer = await fetch(`${name}?${words(asked)}`, { signal });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({ error: answer.statusText }));
    throw new Error(said.error);
  }
  return answer;
}

// A block: the length of a JSON object, the object, values, counts, how many of them are estimates where there are any,
// and the status where each cell is one pair.
function decoded(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const size = head.a.length * head.b.length;
  const values = new Float64Array(buffer, 4 + length, size);
  const counts = new Int32Array(buffer, 4 + length + 8 * size, size);
  const estimated = head.estimated ? new Int32Array(buffer, 4 + length + 12 * size, size) : null;
  const status = head.pairs ? new Uint8Array(buffer, 4 + length + (head.estimated ? 16 : 12) * size, size) : null;
  return { ...head, values, counts, estimated, status };
}

export class Server {
  async meta(c) { return (await fetched("meta", { c })).json(); }

  async block(asked, signal) { return decoded(await (await fetched("block", asked, signal)).arrayBuffer()); }

  async pair(asked) { return (await fetched("pair", asked)).json(); }

  async row(asked) { return (await fetched("row", asked)).json(); }

  async analysis(name, asked) { return (await fetched(name, asked)).json(); }
}
