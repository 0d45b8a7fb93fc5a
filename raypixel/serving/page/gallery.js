// Images that are being written: one tile each, rows appear as they come.

import { bytesOf, canvasOf, paintLevels, rgbOf } from "./picture.js";

const GAP = 10;

export class Gallery {
  constructor(list, { onPick }) {
    this.list = list;
    this.onPick = onPick;
    this.tiles = [];
  }

  begin({ num_images: count, image_shape: shape, num_levels: numLevels, seed }) {
    this.shape = shape;
    this.numLevels = numLevels;
    this.rowsDone = 0;
    this.rowsTotal = count * shape[1];
    this.seed = seed;
    const [, height, width] = shape;
    this.list.style.setProperty("--tile", `${this.#tileWidth(count, width)}px`);
    this.list.replaceChildren();
    this.tiles = Array.from({ length: count }, (_, k) => this.#tile(k, width, height));
  }

  // A whole number of the screen's pixels for each of the image's.
  #tileWidth(count, width) {
    const room = this.list.parentElement.clientWidth;
    const target = count === 1 ? 280 : count <= 4 ? 168 : count <= 16 ? 112 : 96;
    const fitting = count === 1 ? room : Math.min(target, (room - 3 * GAP) / 4);
    const ratio = window.devicePixelRatio || 1;
    const cell = Math.max(1, Math.floor((Math.min(fitting, target) * ratio) / width + 0.05));
    return (cell * width) / ratio;
  }

  #tile(number, width, height) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    button.setAttribute("aria-label", `Image ${number + 1}, not begun`);
    button.disabled = true;
    const canvas = canvasOf(width, height);
    canvas.style.aspectRatio = `${width} / ${height}`;
    button.append(canvas);
    item.append(button);
    this.list.append(item);
    const tile = { number, button, canvas, rows: 0, png: null, label: null };
    button.addEventListener("click", () => this.pick(tile));
    return tile;
  }

  rows({ image, row, num_rows: numRows, levels }) {
    const tile = this.tiles[image];
    const painted = paintLevels(bytesOf(levels), {
      shape: this.shape, numLevels: this.numLevels, numRows,
    });
    tile.canvas.getContext("2d").putImageData(painted, 0, row);
    tile.rows = row + numRows;
    this.rowsDone += numRows;
    const height = this.shape[1];
    const isWritten = tile.rows >= height;
    tile.button.classList.toggle("writing", !isWritten);
    tile.button.style.setProperty("--written", `${(100 * tile.rows) / height}%`);
    tile.button.setAttribute("aria-label", `Image ${image + 1}${isWritten ? "" : ", being written"}`);
  }

  done({ images }) {
    images.forEach(({ png, class_label: label }, k) => {
      const tile = this.tiles[k];
      tile.png = png;
      tile.label = label ?? null;
      tile.button.disabled = false;
      const named = tile.label === null ? "" : `, class ${label}`;
      tile.name = `Image ${k + 1}${named}`;
      tile.button.setAttribute("aria-label", tile.name);
    });
  }

  get numComplete() {
    return this.tiles.filter((tile) => tile.rows >= this.shape[1]).length;
  }

  stop() {
    for (const tile of this.tiles) tile.button.classList.remove("writing");
  }

  unpick() {
    for (const { button } of this.tiles) button.removeAttribute("aria-pressed");
  }

  pick(tile) {
    for (const each of this.tiles) each.button.setAttribute("aria-pressed", each === tile);
    this.onPick({ name: tile.name, png: tile.png, rgb: rgbOf(tile.canvas), label: tile.label, seed: this.seed });
  }
}
