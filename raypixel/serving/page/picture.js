// Pictures: RGB bytes of a model's grid, and their way to canvases, PNG and back.

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// Levels in (channel, row, column) order to RGBA rows.
export function paintLevels(levels, { shape, numLevels, numRows }) {
  const [channels, , width] = shape;
  const size = numRows * width;
  const image = new ImageData(width, numRows);
  for (let p = 0; p < size; p++) {
    for (let c = 0; c < 3; c++) {
      const level = levels[(channels === 3 ? c : 0) * size + p];
      image.data[4 * p + c] = Math.round((level * 255) / (numLevels - 1));
    }
    image.data[4 * p + 3] = 255;
  }
  return image;
}

export function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// RGB bytes, or a mask's gray ones, as base64 of a PNG.
export async function pngOf(rgb, width, height) {
  const canvas = canvasOf(width, height);
  const image = new ImageData(width, height);
  for (let p = 0; p < width * height; p++) {
    for (let c = 0; c < 3; c++) image.data[4 * p + c] = rgb[3 * p + c];
    image.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}

export function rgbOf(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((_, k) => k % 4 !== 3);
}

// A file, its middle square-cut to the model's proportions and scaled to its grid.
export async function readPicture(file, width, height) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(bitmap.width / width, bitmap.height / height);
  const [w, h] = [width * scale, height * scale];
  const canvas = canvasOf(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = scale !== 1;
  context.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, width, height);
  return rgbOf(canvas);
}

// Values that the model knows: gray where it is, on the nearest of its levels.
export function settle(rgb, { shape, numLevels }) {
  const steps = numLevels - 1;
  const near = (value) =>
    numLevels === 2 ? (value >= 128 ? 255 : 0) : Math.round((Math.round((value * steps) / 255) * 255) / steps);
  const settled = new Uint8ClampedArray(rgb.length);
  for (let p = 0; p < rgb.length; p += 3) {
    const gray = 0.299 * rgb[p] + 0.587 * rgb[p + 1] + 0.114 * rgb[p + 2];
    for (let c = 0; c < 3; c++) settled[p + c] = near(shape[0] === 1 ? gray : rgb[p + c]);
  }
  return settled;
}
