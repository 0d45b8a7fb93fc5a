// The page: what is chosen, what is asked of the server, and what is said about it.

import { ApiError, getJson, postJson, setKey, stream } from "./api.js";
import { readAddress, writeAddress } from "./address.js";
import { Editor } from "./editor.js";
import { Gallery } from "./gallery.js";
import { bytesOf, pngOf, readPicture } from "./picture.js";
import { SurpriseMap } from "./surprise.js";

const $ = (id) => document.getElementById(id);
const TABS = ["sample", "complete", "surprise"];
const INTRO = {
  sample: "The model writes each image pixel by pixel, row by row, from nothing but its seed.",
  complete: "Draw or load a picture, paint over what is to be forgotten, and see how the model continues.",
  surprise: "Draw or load a picture and see where it surprises the model, given the pixels before.",
};
const KINDS = {
  pixelcnn: "PixelCNN", gated_pixelcnn: "Gated PixelCNN", row_lstm: "Row LSTM", diagonal_bilstm: "Diagonal BiLSTM",
  multiscale: "Multi-scale PixelRNN",
};
const VERB = { sample: "Sample", complete: "Complete", surprise: "Measure" };

const state = { tab: "sample", models: [], limits: { max_n: 64 }, running: null, counts: { sample: 16, complete: 8 } };
const galleries = {
  sample: new Gallery($("samples"), { onPick: pick }),
  complete: new Gallery($("completions"), { onPick: pick }),
};
const editor = new Editor($("board"), {
  onChange: () => {
    $("undo").disabled = !editor.past.length;
    $("redo").disabled = !editor.future.length;
  },
  say: (text) => { $("board-said").textContent = text; },
});
const map = new SurpriseMap({
  canvas: $("heat"), scale: $("scale"), scaleTop: $("scale-top"), readout: $("readout"), numbers: $("numbers"),
});
let picked = null;

const model = () => state.models.find((each) => each.name === $("model").value);
const say = (text) => { $("status").textContent = text; };

function showError(text) {
  $("error").hidden = !text;
  $("error").textContent = text;
}

// ---- the model and its options

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

function chooseModel() {
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

function chooseInk() {
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

// ---- tabs

function choose(tab, { focus = false } = {}) {
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

function chooseClassOptions(label) {
  const first = $("class").options[0];
  if (state.tab === "sample" && first?.value !== "") $("class").prepend(new Option("each in turn", ""));
  if (state.tab !== "sample" && first?.value === "") first.remove();
  if ($("class").options.length) $("class").value = label;
  if ($("class").selectedIndex < 0) $("class").selectedIndex = 0;
}

// ---- asking

function settings() {
  const label = $("class").value;
  return {
    model: $("model").value,
    n: Number($("n").value),
    seed: Number($("seed").value),
    temperature: Number($("temperature").value),
    class_label: $("field-class").hidden || label === "" ? null : Number(label),
  };
}

function problemOf({ n, seed }) {
  if (!Number.isInteger(n) || n < 1 || n > state.limits.max_n) return `Images must be 1 to ${state.limits.max_n}.`;
  if (!Number.isSafeInteger(seed) || seed < 0 || $("seed").value === "") return "The seed must be a whole number from 0 to 9007199254740991.";
  return "";
}

async function go() {
  const asked = settings();
  const problem = state.tab === "surprise" ? "" : problemOf(asked);
  showError(problem);
  if (problem || !state.models.length) return;
  const running = (state.running = new AbortController());
  unpick();
  setBusy(true);
  if (isNarrow()) $("stage").scrollIntoView({ block: "start" });
  try {
    await withKey(() => ({ sample, complete, surprise })[state.tab](asked, running.signal));
  } catch (error) {
    fail(error);
  } finally {
    if (state.running === running) {
      state.running = null;
      setBusy(false);
    }
  }
}

const isNarrow = () => window.matchMedia("(max-width: 760px)").matches;

function setBusy(isBusy) {
  $("stop").hidden = !isBusy;
  $("go").disabled = isBusy;
  $("progress").hidden = !isBusy || state.tab === "surprise";
  $("stage").setAttribute("aria-busy", isBusy);
  if (!isBusy) for (const gallery of Object.values(galleries)) gallery.stop();
}

function stop() {
  state.running?.abort();
}

function fail(error) {
  if (error.name === "AbortError") {
    const gallery = galleries[state.tab];
    say(gallery ? `Stopped: ${gallery.numComplete} of ${gallery.tiles.length} images are complete.` : "Stopped.");
    return;
  }
  say("");
  showError(error instanceof ApiError ? error.sentence : `Something went wrong in this page: ${error.message}.`);
}

async function follow(gallery, path, body, signal, nouns) {
  const began = performance.now();
  $("progress").value = 0;
  say("Waiting for the server.");
  let isDone = false;
  for await (const { event, data } of stream(path, body, signal)) {
    if (event === "start") {
      gallery.begin(data);
      say(`Writing ${data.num_images} ${nouns}.`);
    } else if (event === "rows") {
      gallery.rows(data);
      $("progress").value = gallery.rowsDone / gallery.rowsTotal;
    } else if (event === "done") {
      gallery.done(data);
      isDone = true;
      const seconds = (performance.now() - began) / 1000;
      say(`${data.images.length} ${nouns} in ${seconds.toFixed(seconds < 10 ? 2 : 0)} s.`);
    }
  }
  if (!isDone) throw new ApiError(0, "The connection ended before the images were complete");
}

function sample(asked, signal) {
  writeAddress({ ...asked, class: asked.class_label });
  return follow(galleries.sample, "v1/samples", asked, signal, asked.n === 1 ? "image" : "images");
}

async function complete(asked, signal) {
  const { rgb, width, height } = editor;
  if (!editor.mask.some(Boolean)) throw new ApiError(0, "Paint over something to be forgotten first");
  const body = {
    ...asked,
    images: [await pngOf(rgb, width, height)],
    observed: await pngOf(editor.observed(), width, height),
  };
  await follow(galleries.complete, "v1/completions", body, signal, asked.n === 1 ? "completion" : "completions");
}

async function surprise({ model: name, class_label: label }, signal) {
  say("Measuring.");
  const images = [await pngOf(editor.rgb, editor.width, editor.height)];
  const body = { model: name, images, class_label: label, per_pixel: true };
  const { scores } = await postJson("v1/scores", body, signal);
  map.show(scores[0]);
  $("surprise").hidden = false;
  say(`${scores[0].bits_per_dim.toFixed(3)} bits per dimension.`);
}

// ---- the key

async function withKey(work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (error.status !== 401) throw error;
      if (!(await askKey(error))) throw error;
    }
  }
}

function askKey(error) {
  const dialog = $("key-dialog");
  $("key").value = "";
  say(error.sentence);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "ok") setKey($("key").value.trim());
      $("key").value = "";
      resolve(dialog.returnValue === "ok");
    }, { once: true });
  });
}

// ---- a picked image

function pick(image) {
  picked = image;
  $("picked").hidden = false;
  $("picked-name").textContent = image.name;
  $("save").href = `data:image/png;base64,${image.png}`;
  $("save").download = `${$("model").value}-${image.seed}-${image.name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}.png`;
}

function unpick() {
  picked = null;
  $("picked").hidden = true;
  for (const gallery of Object.values(galleries)) gallery.unpick();
}

function usePicked(tab) {
  const { rgb, label } = picked;
  choose(tab, { focus: true });
  if (label !== null) chooseClassOptions(label);
  editor.load(rgb);
  if (tab === "complete" && !editor.mask.some(Boolean)) forgetLowerHalf();
  if (tab === "surprise") go();
}

const forgetLowerHalf = () => editor.forget((row) => row >= editor.height / 2);

// ---- a shared address

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

function showTemperature() {
  $("temperature-value").value = Number($("temperature").value).toFixed(2);
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

// ---- wiring

async function takeSample() {
  try {
    const asked = { ...settings(), n: 1, seed: freshSeed() };
    const { images } = await withKey(() => postJson("v1/samples", asked));
    const file = new Blob([bytesOf(images[0].png)], { type: "image/png" });
    editor.load(await readPicture(file, editor.width, editor.height));
  } catch (error) {
    fail(error);
  }
}

const freshSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

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
