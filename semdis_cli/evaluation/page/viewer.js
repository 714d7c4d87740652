// The viewer: one image, two of its pictures, in four layers, and its figures.

const LAYER_TITLES = { slider: "Slider", side: "Side by side", difference: "Difference", latents: "Latents" };
const viewer = element("viewer");
let lastViewed = -1;  // place of the image whose tile gets the focus

const imageNow = () => images.findIndex(image => image.key === state.image);
const hasLayer = (layer, place) => layer !== "latents" || (place >= 0 && images[place].has_pca);
const layerNow = () => (hasLayer(state.layer, imageNow()) ? state.layer : "slider");

function choiceTitle(word) {
  return word === "original" ? "Original" : shown(contenders[word].title);
}

function showViewer(fields) {
  const place = imageNow();
  if (place < 0) {
    if (viewer.open) viewer.close();
    return;
  }
  if (!viewer.open) {
    viewer.showModal();
    document.documentElement.classList.add("viewing");
  }
  lastViewed = place;
  stageSize = images[place].size;
  if (fields.has("image") || fields.has("layer")) showTitle(place);
  if (["image", "layer", "left", "right"].some(field => fields.has(field))) {
    showChoices(place);
    showImageFigures(place);
    showPictures(place);
  }
  showGain();
  element("layer-note").textContent = NOTES[layerNow()]();
  showDivider();
  showPlace();
}

function showTitle(place) {
  const image = images[place], at = chosen.indexOf(place);
  element("viewer-title").replaceChildren(nameText(image.key));
  element("viewer-title").title = shown(image.key);
  const size = `${image.size[1]} × ${image.size[0]} px`;
  const position = [at + 1, chosen.length].map(number => number.toLocaleString("en")).join(" of ");
  element("viewer-place").textContent = at < 0 ? size : `${position} · ${size}`;
  element("previous").disabled = at === 0;
  element("next").disabled = at === chosen.length - 1;
}

function showChoices(place) {
  const layer = layerNow();
  const options = [["original", "Original"], ...contenders.map((one, number) => [String(number), shown(one.title)])];
  fillSelect(element("left"), options, state.left);
  fillSelect(element("right"), options, state.right);
  element("right").disabled = layer === "latents";
  for (const button of element("layers").children) {
    button.setAttribute("aria-pressed", button.value === layer);
    button.disabled = !hasLayer(button.value, place);
  }
  element("gain-label").hidden = layer !== "difference";
  stage.dataset.layer = layer;
}

function showGain() {
  element("gain").value = state.gain;
  element("gain-value").value = `×${2 ** state.gain}`;
  stage.style.setProperty("--gain", 2 ** state.gain);
}

const NOTES = {
  slider: () => "Drag the divider. Hold b to see the right picture in the place of the left one.",
  side: () => "Both sides show the same part of the image.",
  difference: () => `Absolute difference of the 8-bit values, times ${2 ** state.gain}.`,
  latents: () => `${componentsText()}. One basis for all images: equal colours mean the same in each of them.`,
};

function componentsText() {
  const shares = ["red", "green", "blue"].flatMap((colour, number) => {
    const share = contents.explained[number];
    return share === undefined ? [] : [`${colour} ${(100 * share).toFixed(1)} %`];
  });
  const of = shares.length ? `, with their share of the variance: ${shares.join(", ")}` : "";
  return `Principal components of the latents${of}`;
}

// --- Pictures: shown when both are there, so that no eye compares one with that of another image ---

let asked = 0;

async function showPictures(place) {
  const number = ++asked, layer = layerNow();
  const words = [state.left, layer === "latents" ? "pca" : state.right];
  element("message").hidden = true;
  stage.setAttribute("aria-busy", "true");
  const pictures = words.map(word => makePicture(place, word));
  const troubles = await Promise.allSettled(pictures.map(picture => picture.decode()));
  if (number !== asked) return;
  panes.forEach((pane, side) => pane.replaceChildren(pictures[side]));
  showTags(place, words);
  showPlace();
  stage.removeAttribute("aria-busy");
  const missing = pictures.find((_, side) => troubles[side].status === "rejected");
  if (missing) showMissing(missing);
}

function makePicture(place, word) {
  const alt = `${word === "pca" ? "Latents" : choiceTitle(word)} of ${shown(images[place].key)}`;
  const picture = make("img", { alt, draggable: false, src: pictureUrl(place, word) });
  picture.dataset.isLatents = word === "pca";
  return picture;
}

function showMissing(picture) {
  const isBeside = !picture.src.startsWith("data:");
  const file = decodeURIComponent(picture.src.split("/").slice(-2).join("/"));
  element("message").textContent = isBeside
    ? `A picture cannot be shown: ${file}. The folder of pictures has to lie beside this page.`
    : "A picture cannot be shown: the page is damaged.";
  element("message").hidden = false;
}

function showTags(place, words) {
  ["left", "right"].forEach((side, number) => {
    const tag = element(`tag-${side}`), word = words[number];
    tag.replaceChildren(make("span", {}, word === "pca" ? "Latents" : choiceTitle(word)), figureText(place, word));
  });
}

function figureText(place, word) {
  const figure = figureOf(state.figure);
  if (!figure || !(word in contenders)) return "";
  return make("b", {}, withUnit(images[place].figures[word][figure.column], figure.metric));
}

// --- Figures ---

// A contender has two rows: names may be long, and there may be many metrics.
function showImageFigures(place) {
  const head = make("tr", {}, ...metrics.map(metric => heading(metricHead(metric), "col")));
  const bodies = contenders.map((_, number) => imageRows(place, String(number)));
  element("image-figures").replaceChildren(make("thead", {}, head), ...bodies);
}

function imageRows(place, word) {
  const properties = { className: "link", title: "Show it on the right", "aria-pressed": state.right === word };
  const name = make("button", { type: "button", ...properties }, nameText(contenders[word].title));
  name.addEventListener("click", () => change({ right: word }));
  return make("tbody", { className: [state.left, state.right].includes(word) ? "shown" : "" },
    make("tr", {}, heading(name, "rowgroup", { colSpan: Math.max(1, metrics.length) })),
    make("tr", {}, ...metrics.map((metric, column) => imageCell(place, word, metric, column))));
}

function imageCell(place, number, metric, column) {
  const all = images[place].figures.map(row => row[column]).filter(value => value !== null);
  const value = images[place].figures[number][column];
  const isBest = all.length > 1 && value === (metric.is_better_high ? Math.max(...all) : Math.min(...all));
  const text = make("span", { className: isBest ? "best" : "" }, numberText(value, metric));
  return make("td", { className: "number" }, text);
}

// --- Moving on ---

function stepImage(step) {
  const at = chosen.indexOf(imageNow()) + step;
  if (at >= 0 && at < chosen.length) change({ image: images[chosen[at]].key });
}

function stepContender(step) {
  const number = state.right === "original" ? -1 : Number(state.right);
  if (contenders.length) change({ right: String((number + step + contenders.length) % contenders.length) });
}

const swapSides = () => change({ left: state.right, right: state.left });
const stepGain = step => change({ gain: Math.min(6, Math.max(0, state.gain + step)) });
const setLayer = layer => hasLayer(layer, imageNow()) && change({ layer });

// The way that opened it leads back: a view that was linked to has nothing behind it.
function closeViewer() {
  if (!isOpenedHere) return change({ image: null });
  isOpenedHere = false;  // back once, however often somebody asks for it
  history.back();
}

viewer.addEventListener("cancel", event => {
  event.preventDefault();
  closeViewer();
});
viewer.addEventListener("close", () => {
  document.documentElement.classList.remove("viewing");
  if (state.image !== null) closeViewer();
  else focusTile(chosen.indexOf(lastViewed));
});
