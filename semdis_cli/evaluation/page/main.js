// What changes when something is chosen, and the start.

const has = (fields, ...names) => names.some(name => fields.has(name));

function show(fields) {
  if (has(fields, "theme")) showTheme();
  if (has(fields, "statistic")) showSummaryOf(state.statistic);
  if (has(fields, "figure", "order", "text", "ranges")) {
    choose();
    showToolbar();
    showGallery();
  }
  if (has(fields, "figure", "ranges", "text", "other", "theme")) showCharts();
  if (has(fields, "figure", "image", "layer", "left", "right", "gain", "zoom", "at", "split")) showViewer(fields);
}

function showCharts() {
  showHistogram();
  showScatter();
}

function showSummaryOf(statistic) {
  fillSelect(element("statistic"), STATISTICS, statistic);
  showSummary(statistic);
}

function showTheme() {
  document.documentElement.dataset.theme = state.theme;
  element("theme").textContent = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[state.theme];
  element("theme").setAttribute("aria-label", `Colours: ${state.theme}`);
}

function fillLayers() {
  element("layers").replaceChildren(...LAYERS.map((layer, number) => {
    const title = LAYER_TITLES[layer];
    const button = make("button", { type: "button", value: layer, title: `${title} (${number + 1})` }, title);
    button.addEventListener("click", () => setLayer(layer));
    return button;
  }));
}

const CLICKS = {
  "theme": () => change({ theme: THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length] }),
  "help-button": () => element("help").showModal(),
  "previous": () => stepImage(-1),
  "next": () => stepImage(1),
  "close": closeViewer,
  "swap": swapSides,
  "zoom-in": () => zoomStep(1),
  "zoom-out": () => zoomStep(-1),
  "zoom-value": () => zoomTo(1),
  "fit": () => change({ zoom: null, at: null }),
};
for (const [id, action] of Object.entries(CLICKS)) element(id).addEventListener("click", action);
element("statistic").addEventListener("change", event => change({ statistic: event.target.value }));
element("left").addEventListener("change", event => change({ left: event.target.value }));
element("right").addEventListener("change", event => change({ right: event.target.value }));
element("gain").addEventListener("input", event => change({ gain: event.target.valueAsNumber }));

// What was used with a pointer does not keep the arrows to itself.
let isPointing = false;
addEventListener("pointerdown", () => { isPointing = true; }, true);
addEventListener("keydown", () => { isPointing = false; }, true);
for (const id of ["left", "right", "gain"]) {
  element(id).addEventListener("change", () => isPointing && element("viewer-title").focus());
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showCharts);
new ResizeObserver(showCharts).observe(element("charts"));

state = stateOfAddress();
history.replaceState({ isOurs: true }, "", location.href);
showHead();
showEnds();
fillLayers();
fillHelp();
show(new Set(Object.keys(FIELDS)));
