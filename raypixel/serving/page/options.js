// The model and the options of a request.

import { $ } from "./dom.js";
import { editor, model, state } from "./state.js";

const KINDS = {
  pixelcnn: "PixelCNN", gated_pixelcnn: "Gated PixelCNN", row_lstm: "Row LSTM", diagonal_bilstm: "Diagonal BiLSTM",
  multiscale: "Multi-scale PixelRNN",
};

export function chooseModel() {
  const { kind, image_shape: shape, num_levels: numLevels, num_classes: numClasses, num_parameters: size } = model();
  const [channels, height, width] = shape;
  const colors = channels === 3 ? "color" : numLevels === 2 ? "black and white" : `${numLevels} grays`;
  $("about").textContent =
    `${KINDS[kind] ?? kind.replaceAll("_", " ")} · ${width} × ${height} · ${colors} · ${size.toLocaleString("en")} parameters`;
  editor.setModel({ shape, numLevels });
  $("ink-gray").hidden = channels === 3;
  $("ink-color").hidden = channels !== 3;
  $("level").max = numLevels - 1;
  $("level").value = numLevels - 1;
  chooseInk();
  $("class").replaceChildren(...Array.from({ length: numClasses }, (_, k) => new Option(k, k)));
  if (state.tab === "sample") $("class").prepend(new Option("each in turn", ""));
  if (numClasses) $("class").selectedIndex = 0;
  $("field-class").hidden = !numClasses;
}

export function chooseInk() {
  const { image_shape: [channels], num_levels: numLevels } = model();
  if (channels === 3) {
    const number = Number.parseInt($("color").value.slice(1), 16);
    editor.ink = [number >> 16, (number >> 8) & 255, number & 255];
    return;
  }
  const value = Math.round((255 * $("level").value) / (numLevels - 1));
  editor.ink = [value, value, value];
  $("swatch").style.background = `rgb(${value} ${value} ${value})`;
  $("level").setAttribute("aria-valuetext", `gray ${value} of 255`);
}

export function chooseClassOptions(label) {
  const first = $("class").options[0];
  if (state.tab === "sample" && first?.value !== "") $("class").prepend(new Option("each in turn", ""));
  if (state.tab !== "sample" && first?.value === "") first.remove();
  if ($("class").options.length) $("class").value = label;
  if ($("class").selectedIndex < 0) $("class").selectedIndex = 0;
}

export function settings() {
  const label = $("class").value;
  return {
    model: $("model").value,
    n: Number($("n").value),
    seed: Number($("seed").value),
    temperature: Number($("temperature").value),
    class_label: $("field-class").hidden || label === "" ? null : Number(label),
  };
}

export function problemOf({ n, seed }) {
  if (!Number.isInteger(n) || n < 1 || n > state.limits.max_n) return `Images must be 1 to ${state.limits.max_n}.`;
  if (!Number.isSafeInteger(seed) || seed < 0 || $("seed").value === "") return "The seed must be a whole number from 0 to 9007199254740991.";
  return "";
}

export function showTemperature() {
  $("temperature-value").value = Number($("temperature").value).toFixed(2);
}

export const freshSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
