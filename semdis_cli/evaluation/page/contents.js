// What the page shows: read from its blocks of data, which are removed then, and asked for by everything else.

const contents = JSON.parse(document.getElementById("contents").textContent);
const images = JSON.parse(document.getElementById("images").textContent);
const { metrics, contenders } = contents;

const embedded = new Map();
for (const block of document.querySelectorAll("script.picture")) {
  embedded.set(block.id, block.textContent);
  block.remove();
}

// A figure is one metric of one contender, or what it has more of it than the first contender, whose place is `minus`.
// `id` is its name in the address of a view.
const figures = [
  ...contenders.flatMap((contender, place) => metrics.map((metric, column) =>
    ({ id: `${place}.${metric.name}`, place, minus: null, column, metric, contender }))),
  ...contenders.slice(1).flatMap((contender, number) => metrics.map((metric, column) =>
    ({ id: `${number + 1}-0.${metric.name}`, place: number + 1, minus: 0, column, metric, contender }))),
].filter(figure => images.some(image => valueOf(image, figure) !== null));
const figuresById = new Map(figures.map(figure => [figure.id, figure]));
const figureOf = id => figuresById.get(id);

// Number or null.
function valueOf(image, figure) {
  const value = image.figures[figure.place]?.[figure.column] ?? null;
  if (figure.minus === null || value === null) return value;
  const other = image.figures[figure.minus]?.[figure.column] ?? null;
  return other === null ? null : value - other;
}

function figureTitle(figure) {
  const title = shown(figure.metric.title), name = shown(figure.contender.title);
  if (figure.minus !== null) return `${title}: ${name} minus ${shown(contenders[figure.minus].title)}`;
  return contenders.length > 1 ? `${title}: ${name}` : title;
}

function numberText(value, metric) {
  return value === null || value === undefined ? "–" : value.toFixed(metric.digits);
}

function withUnit(value, metric) {
  return metric.unit && value !== null ? `${numberText(value, metric)} ${metric.unit}` : numberText(value, metric);
}

// A name as it may be read: characters that turn text around or are not seen stand as their codes.
function shown(name) {
  return name.replace(/[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff]/gu,
    character => `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`);
}

function plural(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// `word`: thumb, original, pca, or the place of a contender.
function pictureUrl(number, word) {
  const name = `${String(number).padStart(6, "0")}-${word}`;
  const [type, suffix] = word === "thumb" ? ["image/jpeg", "jpg"] : ["image/png", "png"];
  const data = embedded.get(name);
  return data === undefined ? `${contents.folder}/${name}.${suffix}` : `data:${type};base64,${data}`;
}
