// The elements of the page, and the two places where it speaks: the status line and the error box.

export const $ = (id) => document.getElementById(id);

export const say = (text) => { $("status").textContent = text; };

// An error stands alone: beside it the status line has nothing to say.
export function showError(text) {
  $("error").hidden = !text;
  $("error").textContent = text;
  if (text) say("");
}

export const isNarrow = () => window.matchMedia("(max-width: 760px)").matches;
