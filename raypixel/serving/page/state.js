// What the page knows: the open tab, the models, the picture in the editor and the surprise map.

import { $ } from "./dom.js";
import { Editor } from "./editor.js";
import { SurpriseMap } from "./surprise.js";

export const state = {
  tab: "sample", models: [], limits: { max_n: 64 }, running: null, counts: { sample: 16, complete: 8 },
};
export const editor = new Editor($("board"), {
  onChange: () => {
    $("undo").disabled = !editor.past.length;
    $("redo").disabled = !editor.future.length;
  },
  say: (text) => { $("board-said").textContent = text; },
});
export const map = new SurpriseMap({
  canvas: $("heat"), scale: $("scale"), scaleTop: $("scale-top"), readout: $("readout"), numbers: $("numbers"),
});

export const model = () => state.models.find((each) => each.name === $("model").value);
export const forgetLowerHalf = () => editor.forget((row) => row >= editor.height / 2);
