// What is asked of the server, and what is said while it answers.

import { ApiError, postJson, stream } from "./api.js";
import { writeAddress } from "./address.js";
import { $, isNarrow, say, showError } from "./dom.js";
import { withKey } from "./key.js";
import { freshSeed, problemOf, settings } from "./options.js";
import { galleries, unpick } from "./picked.js";
import { bytesOf, pngOf, readPicture } from "./picture.js";
import { editor, map, state } from "./state.js";

export async function go() {
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

function setBusy(isBusy) {
  $("stop").hidden = !isBusy;
  $("go").disabled = isBusy;
  $("progress").hidden = !isBusy || state.tab === "surprise";
  $("stage").setAttribute("aria-busy", isBusy);
  if (!isBusy) for (const gallery of Object.values(galleries)) gallery.stop();
}

export function stop() {
  state.running?.abort();
}

export function fail(error) {
  if (error.name === "AbortError") {
    const gallery = galleries[state.tab];
    say(gallery ? `Stopped: ${gallery.numComplete} of ${gallery.tiles.length} images are complete.` : "Stopped.");
    return;
  }
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

// Put a sample of the model into the editor.
export async function takeSample() {
  showError("");
  try {
    const asked = { ...settings(), n: 1, seed: freshSeed() };
    const { images } = await withKey(() => postJson("v1/samples", asked));
    const file = new Blob([bytesOf(images[0].png)], { type: "image/png" });
    editor.load(await readPicture(file, editor.width, editor.height));
  } catch (error) {
    fail(error);
  }
}
