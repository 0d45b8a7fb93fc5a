// The three tabs: what each shows of the controls that they share.

import { go, stop } from "./asking.js";
import { $, say, showError } from "./dom.js";
import { chooseClassOptions } from "./options.js";
import { pickedImage, unpick } from "./picked.js";
import { editor, forgetLowerHalf, map, state } from "./state.js";

export const TABS = ["sample", "complete", "surprise"];
const INTRO = {
  sample: "The model writes each image pixel by pixel, row by row, from nothing but its seed.",
  complete: "Draw or load a picture, paint over what is to be forgotten, and see how the model continues.",
  surprise: "Draw or load a picture and see where it surprises the model, given the pixels before.",
};
const VERB = { sample: "Sample", complete: "Complete", surprise: "Measure" };

export function choose(tab, { focus = false } = {}) {
  if (state.running) stop();
  if (state.tab !== "surprise") state.counts[state.tab] = $("n").value;
  state.tab = tab;
  for (const each of TABS) {
    const button = $(`tab-${each}`);
    button.setAttribute("aria-selected", each === tab);
    button.tabIndex = each === tab ? 0 : -1;
  }
  if (focus) $(`tab-${tab}`).focus();
  $("work").setAttribute("aria-labelledby", `tab-${tab}`);
  document.body.dataset.tab = tab;
  $("intro").textContent = INTRO[tab];
  $("go").textContent = VERB[tab];
  $("n-label").textContent = tab === "complete" ? "Completions" : "Images";
  $("editor").hidden = tab === "sample";
  $("samples").hidden = tab !== "sample";
  $("completions").hidden = tab !== "complete";
  $("surprise").hidden = tab !== "surprise" || !map.map;
  if (tab !== "surprise") $("n").value = state.counts[tab];
  editor.showsMask = tab === "complete";
  const tool = tab === "complete" ? "forget" : "draw";
  document.querySelector(`input[name=tool][value=${tool}]`).checked = true;
  editor.tool = tool;
  editor.draw();
  unpick();
  showError("");
  if (state.models.length) {
    const label = $("class").value;
    chooseClassOptions(label);
    say("Ready.");
  }
}

// Take the picked image to another tab.
export function usePicked(tab) {
  const { rgb, label } = pickedImage();
  choose(tab, { focus: true });
  if (label !== null) chooseClassOptions(label);
  editor.load(rgb);
  if (tab === "complete" && !editor.mask.some(Boolean)) forgetLowerHalf();
  if (tab === "surprise") go();
}
