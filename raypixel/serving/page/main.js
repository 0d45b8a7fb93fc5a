// The page begins: events are wired, the models are asked for, and a shared address is opened.

import { getJson } from "./api.js";
import { readAddress, writeAddress } from "./address.js";
import { fail, go, stop, takeSample } from "./asking.js";
import { $, say, showError } from "./dom.js";
import { withKey } from "./key.js";
import { chooseClassOptions, chooseInk, chooseModel, freshSeed, settings, showTemperature } from "./options.js";
import { readPicture } from "./picture.js";
import { editor, forgetLowerHalf, state } from "./state.js";
import { TABS, choose, usePicked } from "./tabs.js";

async function loadModels() {
  const { models, limits } = await withKey(() => getJson("v1/models"));
  state.models = models;
  state.limits = limits;
  $("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  $("model").value = (models.find((each) => each.is_default) ?? models[0]).name;
  $("model").disabled = false;
  $("go").disabled = false;
  $("n").max = limits.max_n;
  chooseModel();
  say("Ready.");
}

function restore() {
  const found = readAddress();
  if (!found) return;
  if (state.tab !== "sample") choose("sample");
  if (found.model && !state.models.some((each) => each.name === found.model)) {
    showError(`This address is of a model named ${found.model}, which is not served here.`);
    return;
  }
  if (found.model && found.model !== $("model").value) {
    $("model").value = found.model;
    chooseModel();
  }
  for (const key of ["n", "seed", "temperature"]) if (found[key]) $(key).value = found[key];
  chooseClassOptions(found.class ?? "");
  showTemperature();
  go();
}

async function share() {
  const address = writeAddress({ ...settings(), class: settings().class_label });
  try {
    await navigator.clipboard.writeText(address);
    say("The link is copied: it makes these images again.");
  } catch {
    say("The link is in the address bar: it makes these images again.");
  }
}

function wire() {
  TABS.forEach((tab, k) => {
    $(`tab-${tab}`).addEventListener("click", () => choose(tab));
    $(`tab-${tab}`).addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) choose(TABS[(k + step + TABS.length) % TABS.length], { focus: true });
    });
  });
  $("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!state.running) go();
  });
  $("stop").addEventListener("click", stop);
  $("share").addEventListener("click", share);
  $("fresh").addEventListener("click", () => { $("seed").value = freshSeed(); });
  $("temperature").addEventListener("input", showTemperature);
  $("model").addEventListener("change", () => { stop(); chooseModel(); });
  $("level").addEventListener("input", chooseInk);
  $("color").addEventListener("input", chooseInk);
  $("tools").addEventListener("change", (event) => { editor.tool = event.target.value; });
  $("brushes").addEventListener("change", (event) => { editor.brush = Number(event.target.value); });
  $("undo").addEventListener("click", () => editor.undo());
  $("redo").addEventListener("click", () => editor.redo());
  $("blank").addEventListener("click", () => editor.blank());
  $("half").addEventListener("click", forgetLowerHalf);
  $("all").addEventListener("click", () => editor.forget(() => false));
  $("drawn").addEventListener("click", takeSample);
  $("file").addEventListener("change", async ({ target }) => {
    showError("");
    try {
      if (target.files[0]) editor.load(await readPicture(target.files[0], editor.width, editor.height));
    } catch {
      showError(`${target.files[0].name} is not a picture that this browser can read.`);
    }
    target.value = "";
  });
  $("key-cancel").addEventListener("click", () => $("key-dialog").close(""));
  $("key-form").addEventListener("submit", () => { $("key-dialog").returnValue = "ok"; });
  $("use-complete").addEventListener("click", () => usePicked("complete"));
  $("use-surprise").addEventListener("click", () => usePicked("surprise"));
  window.addEventListener("hashchange", restore);
}

wire();
choose("sample");
try {
  await loadModels();
  restore();
} catch (error) {
  fail(error);
}
