// What is chosen of the images: figure, order, words, ranges.

function showToolbar() {
  fillSelect(element("figure"), figures.map(figure => [figure.id, figureTitle(figure)]), state.figure);
  fillSelect(element("order"), ORDERS, state.order);
  if (element("search").value !== state.text) element("search").value = state.text;
  element("chips").replaceChildren(...state.ranges.map(chip));
  element("count").value = chosen.length === images.length
    ? plural(images.length, "image")
    : `${chosen.length.toLocaleString("en")} of ${plural(images.length, "image")}`;
  showRange();
}

function chip(range) {
  const figure = figureOf(range.figure);
  const text = `${figureTitle(figure)} ${rangeTitle(range)}`;
  const cross = make("span", { "aria-hidden": "true" }, " ✕");
  const button = make("button", { type: "button", className: "chip", title: "Remove this range" }, text, cross);
  button.addEventListener("click", () => change({ ranges: setRange(figure, null) }));
  return button;
}

// The range of the chosen figure, in numbers.
function showRange() {
  const figure = figureOf(state.figure);
  element("range").hidden = !figure;
  if (!figure) return;
  const range = state.ranges.find(one => one.figure === figure.id);
  const given = value => (Number.isFinite(value) ? numberText(value, figure.metric) : "");
  element("range-from").value = given(range?.low);
  element("range-to").value = given(range?.high);
  element("range-unit").textContent = figure.metric.unit;
}

function takeRange() {
  const [low, high] = [element("range-from"), element("range-to")].map(input => input.valueAsNumber);
  const ends = [Number.isNaN(low) ? -Infinity : low, Number.isNaN(high) ? Infinity : high];
  const isOpen = !ends.some(Number.isFinite);
  change({ ranges: setRange(figureOf(state.figure), isOpen ? null : ends.sort((a, b) => a - b)) });
}

function rangeTitle({ low, high, figure }) {
  const { metric } = figureOf(figure);
  if (low === -Infinity) return `≤ ${withUnit(high, metric)}`;
  if (high === Infinity) return `≥ ${withUnit(low, metric)}`;
  return `${numberText(low, metric)} – ${withUnit(high, metric)}`;
}

element("range-from").addEventListener("change", takeRange);
element("range-to").addEventListener("change", takeRange);
element("figure").addEventListener("change", event =>
  change({ figure: event.target.value, order: state.order === "name" ? "worst" : state.order }));
element("order").addEventListener("change", event => change({ order: event.target.value }));
element("search").addEventListener("input", event => change({ text: event.target.value }));
element("search").addEventListener("keydown", event => {
  if (event.key !== "Enter" || !chosen.length) return;
  event.preventDefault();  // or the tile would be opened at once
  focusTile(0);
});
element("clear").addEventListener("click", () => change({ text: "", ranges: [] }));
