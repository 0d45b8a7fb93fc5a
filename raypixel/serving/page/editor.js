// The picture: values to draw and a mask of what is to be forgotten, on the model's own grid.

import { canvasOf, settle } from "./picture.js";

const KEPT_STEPS = 200;

export class Editor {
  constructor(canvas, { onChange, say }) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.say = say;
    this.tool = "forget";
    this.brush = 2;
    this.ink = [255, 255, 255];
    this.showsMask = true;
    this.cursor = [0, 0];
    this.past = [];
    this.future = [];
    this.stroke = null;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { this.stroke = null; });
    }
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  setModel(model) {
    const { shape } = model;
    const isSame = this.model && `${this.model.shape}` === `${shape}`;
    this.model = model;
    [, this.height, this.width] = shape;
    this.canvas.setAttribute("aria-label", `Pixel editor, ${this.height} rows of ${this.width}`);
    if (isSame) {
      this.rgb = settle(this.rgb, model);
    } else {
      this.rgb = new Uint8ClampedArray(3 * this.width * this.height);
      this.mask = new Uint8Array(this.width * this.height);
      this.cursor = [0, 0];
    }
    this.past = [];
    this.future = [];
    this.#changed();
  }

  // Replaces the picture; the mask stays.
  load(rgb) {
    this.#remember();
    this.rgb = settle(rgb, this.model);
    this.#changed();
  }

  blank() {
    this.#remember();
    this.rgb.fill(0);
    this.#changed();
  }

  forget(isForgotten) {
    this.#remember();
    for (let p = 0; p < this.mask.length; p++) {
      this.mask[p] = isForgotten(Math.floor(p / this.width), p % this.width) ? 1 : 0;
    }
    this.#changed();
  }

  undo() {
    this.#travel(this.past, this.future);
  }

  redo() {
    this.#travel(this.future, this.past);
  }

  // White where a pixel is kept.
  observed() {
    const rgb = new Uint8ClampedArray(3 * this.mask.length);
    this.mask.forEach((isForgotten, p) => rgb.fill(isForgotten ? 0 : 255, 3 * p, 3 * p + 3));
    return rgb;
  }

  #snapshot() {
    return { rgb: this.rgb.slice(), mask: this.mask.slice() };
  }

  #remember() {
    this.past.push(this.#snapshot());
    if (this.past.length > KEPT_STEPS) this.past.shift();
    this.future = [];
  }

  #travel(from, to) {
    const state = from.pop();
    if (!state) return;
    to.push(this.#snapshot());
    Object.assign(this, state);
    this.#changed();
  }

  #changed() {
    this.draw();
    this.onChange();
  }

  #cellOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.height);
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.width);
    const inside = (k, size) => Math.min(Math.max(k, 0), size - 1);
    return [inside(row, this.height), inside(column, this.width)];
  }

  #down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#remember();
    this.stroke = this.cursor = this.#cellOf(event);
    this.#dab(this.stroke);
    this.#changed();
  }

  #move(event) {
    if (!this.stroke) return;
    const [row, column] = this.#cellOf(event);
    const [fromRow, fromColumn] = this.stroke;
    const steps = Math.max(Math.abs(row - fromRow), Math.abs(column - fromColumn));
    for (let k = 1; k <= steps; k++) {
      const along = (from, to) => Math.round(from + ((to - from) * k) / steps);
      this.#dab([along(fromRow, row), along(fromColumn, column)]);
    }
    this.stroke = this.cursor = [row, column];
    if (steps) this.#changed();
  }

  #dab([row, column]) {
    const before = Math.floor((this.brush - 1) / 2);
    for (let i = row - before; i < row - before + this.brush; i++) {
      for (let j = column - before; j < column - before + this.brush; j++) {
        if (i < 0 || j < 0 || i >= this.height || j >= this.width) continue;
        const p = i * this.width + j;
        if (this.tool === "draw") this.rgb.set(this.ink, 3 * p);
        else this.mask[p] = this.tool === "forget" ? 1 : 0;
      }
    }
  }

  #key(event) {
    const command = event.ctrlKey || event.metaKey;
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (command && event.key.toLowerCase() === "z") {
      if (event.shiftKey) this.redo();
      else this.undo();
    } else if (moves[event.key] && !command) {
      const [down, right] = moves[event.key];
      const [row, column] = this.cursor;
      this.cursor = [
        Math.min(Math.max(row + down, 0), this.height - 1),
        Math.min(Math.max(column + right, 0), this.width - 1),
      ];
      if (event.shiftKey) this.#press();
      this.draw();
      this.#sayCursor();
    } else if (event.key === " " || event.key === "Enter") {
      this.#press();
      this.#sayCursor();
    } else {
      return;
    }
    event.preventDefault();
  }

  #press() {
    this.#remember();
    this.#dab(this.cursor);
    this.#changed();
  }

  #sayCursor() {
    const [row, column] = this.cursor;
    const p = row * this.width + column;
    const value = [...this.rgb.slice(3 * p, 3 * p + (this.model.shape[0] === 3 ? 3 : 1))].join(" ");
    const state = this.showsMask && this.mask[p] ? "forgotten" : `value ${value}`;
    this.say(`Row ${row + 1}, column ${column + 1}, ${state}`);
  }

  draw() {
    if (!this.model) return;
    const { canvas, width, height } = this;
    const room = Math.min(canvas.parentElement.clientWidth || 320, 336);
    const ratio = Math.max(1, Math.round(window.devicePixelRatio || 1));
    const cell = Math.max(1, Math.floor(room / Math.max(width, height)));
    const size = cell * ratio;
    canvas.width = width * size;
    canvas.height = height * size;
    canvas.style.width = `${width * cell}px`;
    const context = canvas.getContext("2d");
    const small = canvasOf(width, height);
    const image = new ImageData(width, height);
    for (let p = 0; p < width * height; p++) {
      for (let c = 0; c < 3; c++) image.data[4 * p + c] = this.rgb[3 * p + c];
      image.data[4 * p + 3] = 255;
    }
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (this.showsMask) this.#drawMask(context, size);
    if (cell >= 8) this.#drawGrid(context, size);
    if (document.activeElement === canvas) {
      const [row, column] = this.cursor;
      context.lineWidth = ratio;
      for (const [color, inset] of [["#000", 0.5], ["#fff", 1.5]]) {
        context.strokeStyle = color;
        const at = inset * ratio;
        context.strokeRect(column * size + at, row * size + at, size - 2 * at, size - 2 * at);
      }
    }
  }

  #drawMask(context, size) {
    const style = getComputedStyle(this.canvas);
    const hatch = canvasOf(8, 8);
    const ink = hatch.getContext("2d");
    ink.fillStyle = style.getPropertyValue("--forgotten");
    ink.fillRect(0, 0, 8, 8);
    ink.fillStyle = style.getPropertyValue("--forgotten-line");
    for (let k = 0; k < 8; k++) ink.fillRect((8 - k) % 8, k, 2, 1);
    context.fillStyle = context.createPattern(hatch, "repeat");
    this.mask.forEach((isForgotten, p) => {
      if (!isForgotten) return;
      context.fillRect((p % this.width) * size, Math.floor(p / this.width) * size, size, size);
    });
  }

  #drawGrid(context, size) {
    context.fillStyle = "rgb(128 128 128 / 28%)";
    for (let j = 1; j < this.width; j++) context.fillRect(j * size, 0, 1, this.height * size);
    for (let i = 1; i < this.height; i++) context.fillRect(0, i * size, this.width * size, 1);
  }
}
