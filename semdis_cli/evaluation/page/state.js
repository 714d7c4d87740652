// What is looked at: one plain object, which the hash of the address holds too, so that a view can be linked to.

const LAYERS = ["slider", "side", "difference", "latents"];
const ORDERS = [["worst", "worst first"], ["best", "best first"], ["name", "by name"]];
const THEMES = ["auto", "light", "dark"];

const FIRST_STATE = {
  figure: figures[0]?.id ?? "", order: figures.length ? "worst" : "name", text: "", ranges: [],
  other: (figures.find(figure => figure !== figures[0]) ?? figures[0])?.id ?? "", statistic: "mean", theme: "auto",
  image: null, layer: "slider", left: "original", right: contenders.length ? "0" : "original", gain: 3,
  zoom: null, at: null, split: 50,
};
let state = FIRST_STATE;

// Its name in the address, text -> value (undefined: not to be used), value -> text.
const FIELDS = {
  figure: ["figure", text => figureOf(text)?.id, String],
  order: ["order", oneOf(ORDERS.map(([name]) => name)), String],
  text: ["search", text => text, String],
  ranges: ["range", text => text.split("|").map(parseRange).filter(Boolean), ranges => ranges.map(rangeText).join("|")],
  other: ["against", text => figureOf(text)?.id, String],
  statistic: ["show", oneOf(STATISTICS.map(([name]) => name)), String],
  theme: ["theme", oneOf(THEMES), String],
  image: ["image", text => (images.some(image => image.key === text) ? text : undefined), String],
  layer: ["layer", oneOf(LAYERS), String],
  left: ["left", choiceOf, String],
  right: ["right", choiceOf, String],
  gain: ["gain", number(0, 6), String],
  zoom: ["zoom", number(1 / 64, 64), String],
  at: ["at", parsePlace, ([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`],
  split: ["split", number(0, 100), value => value.toFixed(1)],
};

function oneOf(names) {
  return text => (names.includes(text) ? text : undefined);
}

function number(low, high) {
  return text => (text !== "" && Number(text) >= low && Number(text) <= high ? Number(text) : undefined);
}

function choiceOf(text) {
  return text === "original" || (/^\d+$/.test(text) && Number(text) < contenders.length) ? text : undefined;
}

function parsePlace(text) {
  const place = text.split(",").map(Number);
  return place.length === 2 && place.every(Number.isFinite) ? place : undefined;
}

// A range of a figure: { figure, low, high }.
function parseRange(text) {
  const [figure, low, high] = text.split("~");
  const isRange = figureOf(figure) && low !== "" && high !== "" && Number(low) <= Number(high);
  return isRange ? { figure, low: Number(low), high: Number(high) } : null;
}

function rangeText({ figure, low, high }) {
  return [figure, low, high].join("~");
}

function stateOfAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const read = { ...FIRST_STATE };
  for (const [field, [name, parse]] of Object.entries(FIELDS)) {
    const value = given.has(name) ? parse(given.get(name)) : undefined;
    if (value !== undefined) read[field] = value;
  }
  return read;
}

function addressOfState() {
  const given = new URLSearchParams();
  for (const [field, [name, , format]] of Object.entries(FIELDS)) {
    const value = state[field] === null ? "" : format(state[field]);
    if (value !== (FIRST_STATE[field] === null ? "" : format(FIRST_STATE[field]))) given.set(name, value);
  }
  return `#${given}`;
}

// Browsers refuse addresses that change many times a second.
let writing = null;
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => history.replaceState({ isOurs: true }, "", addressOfState()), 250);
}

// Takes new values, and shows what depends on them. An image that is opened can be left by the browser's Back.
function change(values) {
  const fields = Object.keys(values).filter(field => values[field] !== state[field]);
  if (!fields.length) return;
  const isOpening = state.image === null && values.image;
  state = { ...state, ...values };
  if (isOpening) openAddress();
  else writeAddress();
  show(new Set(fields));
}

let isOpenedHere = false;  // and not by the address: the way back leads to the page
function openAddress() {
  clearTimeout(writing);
  history.pushState({ isOurs: true }, "", addressOfState());
  isOpenedHere = true;
}

// Of an address that somebody wrote, all counts; where we have been before, only whether an image was open.
addEventListener("popstate", event => {
  isOpenedHere = false;
  const found = stateOfAddress();
  change(event.state ? { image: found.image } : found);
});
