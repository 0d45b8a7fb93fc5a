// The API key: asked for when the server wants one, until it is right.

import { setKey } from "./api.js";
import { $, say } from "./dom.js";

export async function withKey(work) {
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
