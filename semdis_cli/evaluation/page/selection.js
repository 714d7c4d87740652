// Which images are shown, and in which order.

let chosen = [];  // places of images
let isChosen = new Uint8Array(images.length);
const names = images.map(image => image.key.toLowerCase());

function choose() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const ranges = state.ranges.map(range => ({ ...range, figure: figureOf(range.figure) }));
  isChosen = Uint8Array.from(images, (image, place) =>
    words.every(word => names[place].includes(word)) && ranges.every(range => isWithin(image, range)));
  chosen = images.map((_, place) => place).filter(place => isChosen[place]);
  if (state.order === "name") chosen.sort((a, b) => compareNames(names[a], names[b]));
  else sortByFigure(chosen, figureOf(state.figure), state.order === "worst");
}

const compareNames = new Intl.Collator("en", { numeric: true }).compare;

function isWithin(image, { figure, low, high }) {
  const value = valueOf(image, figure);
  return value !== null && low <= value && value <= high;
}

// Images without the figure come last in either order.
function sortByFigure(places, figure, isWorstFirst) {
  if (!figure) return;
  const sign = figure.metric.is_better_high === isWorstFirst ? 1 : -1;
  const keys = Float64Array.from(images, image => {
    const value = valueOf(image, figure);
    return value === null ? Infinity : sign * value;
  });
  places.sort((a, b) => (keys[a] === keys[b] ? a - b : keys[a] - keys[b]));
}

function setRange(figure, range) {
  const others = state.ranges.filter(one => one.figure !== figure.id);
  return range ? [...others, { figure: figure.id, low: range[0], high: range[1] }] : others;
}
