// The surprise map: nats of every pixel given those before it.

// dark to light, evenly perceived
const STOPS = [[13, 12, 38], [76, 23, 112], [161, 48, 116], [232, 96, 84], [251, 179, 98], [252, 250, 205]];

function colorOf(share) {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const k = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[k].map((value, c) => Math.round(value + (STOPS[k + 1][c] - value) * (place - k)));
}

function fill(context, width, height, shareOf) {
  const image = new ImageData(width, height);
  for (let p = 0; p < width * height; p++) image.data.set([...colorOf(shareOf(p)), 255], 4 * p);
  context.putImageData(image, 0, 0);
}

export class SurpriseMap {
  constructor({ canvas, scale, scaleTop, readout, numbers }) {
    Object.assign(this, { canvas, scale, scaleTop, readout, numbers });
    this.cursor = [0, 0];
    fill(scale.getContext("2d"), 256, 1, (p) => p / 255);
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const row = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
      const column = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
      this.read(row, column);
    });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      this.read(this.cursor[0] + move[0], this.cursor[1] + move[1]);
    });
  }

  show({ surprise, nll_nats: nats, bits_per_dim: bits }) {
    this.map = surprise;
    const [height, width] = [surprise.length, surprise[0].length];
    const values = surprise.flat();
    const top = Math.max(...values);
    this.canvas.width = width;
    this.canvas.height = height;
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.canvas.style.width = `${Math.max(1, Math.floor(336 / width)) * width}px`;
    fill(this.canvas.getContext("2d"), width, height, (p) => (top > 0 ? values[p] / top : 0));
    this.scaleTop.textContent = `${top.toFixed(2)} nats`;
    const at = values.indexOf(top);
    const list = [
      ["Bits per dimension", bits.toFixed(3)],
      ["Nats in all", nats.toFixed(1)],
      ["Most surprising", `row ${Math.floor(at / width) + 1}, column ${(at % width) + 1}`],
    ];
    this.numbers.replaceChildren();
    for (const [name, value] of list) {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      text.textContent = value;
      this.numbers.append(term, text);
    }
    this.readout.textContent = "Point at a pixel, or use the arrow keys, to read its surprise.";
  }

  read(row, column) {
    if (!this.map) return;
    const [height, width] = [this.map.length, this.map[0].length];
    row = Math.min(Math.max(row, 0), height - 1);
    column = Math.min(Math.max(column, 0), width - 1);
    this.cursor = [row, column];
    this.readout.textContent =
      `Row ${row + 1}, column ${column + 1}: ${this.map[row][column].toFixed(3)} nats`;
  }
}

