// The galleries, and the image that is picked in one of them.

import { $ } from "./dom.js";
import { Gallery } from "./gallery.js";

export const galleries = {
  sample: new Gallery($("samples"), { onPick: pick }),
  complete: new Gallery($("completions"), { onPick: pick }),
};
let picked = null;

export const pickedImage = () => picked;

function pick(image) {
  picked = image;
  $("picked").hidden = false;
  $("picked-name").textContent = image.name;
  $("save").href = `data:image/png;base64,${image.png}`;
  $("save").download = `${$("model").value}-${image.seed}-${image.name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}.png`;
}

export function unpick() {
  picked = null;
  $("picked").hidden = true;
  for (const gallery of Object.values(galleries)) gallery.unpick();
}
