// A result's recipe in the address, after the #: it never reaches the server's logs.

const KEYS = ["model", "n", "seed", "temperature", "class"];

export function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  if (!found.has("seed")) return null;
  return Object.fromEntries(KEYS.filter((key) => found.has(key)).map((key) => [key, found.get(key)]));
}

export function writeAddress(recipe) {
  const kept = new URLSearchParams();
  for (const key of KEYS) {
    if (recipe[key] !== null && recipe[key] !== undefined && recipe[key] !== "") kept.set(key, recipe[key]);
  }
  history.replaceState(null, "", `#${kept}`);
  return location.href;
}
