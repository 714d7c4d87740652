// Where the pictures of an image lie: zoom and place, which both sides share, and the divider between them.
// `scale` is pixels of the screen for one of the image; null in the state: as large as fits.

const LARGEST = 32, STEPS_OF_ZOOM = [1 / 16, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 2, 3, 4, 6, 8, 12, 16, 24, LARGEST];
const stage = element("stage"), panes = [element("pane-left"), element("pane-right")];
let stageSize = [1, 1];  // (height, width) in px of the image that is shown

const isSideBySide = () => state.layer === "side";
const hasDivider = () => state.layer === "slider" || state.layer === "latents";

// Whole pixels where the image is enlarged, so that all of them are of one size.
function fittingScale() {
  const [height, width] = stageSize;
  const exact = Math.min(panes[0].clientWidth / width, panes[0].clientHeight / height) * devicePixelRatio;
  return exact > 1 ? Math.min(LARGEST, Math.floor(exact + 1e-6)) : exact;
}

const scaleNow = () => state.zoom ?? fittingScale();

// The point of the image in the middle of a pane: some point of it, and its own middle where it is smaller than fits.
function middleNow(scale, at) {
  const [height, width] = stageSize;
  if (!at || scale <= fittingScale()) return [width / 2, height / 2];
  return [Math.min(width, Math.max(0, at[0])), Math.min(height, Math.max(0, at[1]))];
}

const placeNow = () => middleNow(scaleNow(), state.at);

function isAllInView() {
  const size = scaleNow() / devicePixelRatio;
  return stageSize[1] * size <= panes[0].clientWidth + 1 && stageSize[0] * size <= panes[0].clientHeight + 1;
}

// Side by side, or one above the other where that shows much more. Both parts have equal sizes, in whole pixels.
function halveStage() {
  const { clientWidth: width, clientHeight: height } = stage, [imageHeight, imageWidth] = stageSize;
  const beside = Math.min(width / 2 / imageWidth, height / imageHeight);
  const above = Math.min(width / imageWidth, height / 2 / imageHeight);
  const isStacked = above > 1.25 * beside;
  stage.classList.toggle("stacked", isStacked);
  stage.style.setProperty("--half", `${Math.floor((isStacked ? height : width) / 2)}px`);
}

// Between pixels of the screen, those of the image would be mixed.
const toPixel = at => Math.round(at * devicePixelRatio) / devicePixelRatio;

function showPlace() {
  halveStage();
  const scale = scaleNow(), size = scale / devicePixelRatio, [x, y] = placeNow();
  for (const pane of panes) {
    const picture = pane.querySelector("img");
    if (!picture) continue;
    const across = toPixel(pane.clientWidth / 2 - x * size), down = toPixel(pane.clientHeight / 2 - y * size);
    picture.style.width = `${stageSize[1] * size}px`;
    picture.style.height = `${stageSize[0] * size}px`;
    picture.style.transform = `translate(${across}px, ${down}px)`;
    picture.classList.toggle("pixels", scale > 1 || picture.dataset.isLatents === "true");
  }
  element("zoom-value").textContent = `${Math.round(100 * scale)} %`;
  element("zoom-value").setAttribute("aria-label", `Zoom ${Math.round(100 * scale)} percent, to 100`);
  element("fit").setAttribute("aria-pressed", state.zoom === null);
  stage.classList.toggle("pannable", !isAllInView());
}

function showDivider() {
  stage.style.setProperty("--split", `${state.split}%`);
  const slider = element("slider");
  slider.value = state.split;
  slider.setAttribute("aria-valuetext", `${Math.round(state.split)} % from the left`);
}

// `point`: of the window, stays where it is; the middle of the stage if it is not given.
function zoomTo(scale, point) {
  const fitting = fittingScale();
  if (Math.abs(scale / fitting - 1) < 0.02 && scaleNow() !== fitting) return change({ zoom: null, at: null });
  const wanted = Math.min(LARGEST, Math.max(Math.min(fitting, 1), scale));
  const [dx, dy] = point ? offsetInPane(point) : [0, 0];
  const [x, y] = placeNow(), before = devicePixelRatio / scaleNow(), after = devicePixelRatio / wanted;
  change({ zoom: wanted, at: middleNow(wanted, [x + dx * (before - after), y + dy * (before - after)]) });
}

// From the middle of the pane that the point is in.
function offsetInPane([x, y]) {
  const boxes = panes.map(pane => pane.getBoundingClientRect());
  const isIn = box => x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;
  const box = isSideBySide() ? boxes.find(isIn) ?? boxes[0] : boxes[0];
  return [x - box.left - box.width / 2, y - box.top - box.height / 2];
}

function zoomStep(direction) {
  const scale = scaleNow();
  const next = direction > 0
    ? STEPS_OF_ZOOM.find(step => step > scale * 1.001)
    : STEPS_OF_ZOOM.findLast(step => step < scale * 0.999);
  zoomTo(next ?? scale);
}

function panBy(dx, dy) {
  if (isAllInView()) return;
  const scale = scaleNow(), [x, y] = placeNow();
  const by = devicePixelRatio / scale;
  change({ zoom: scale, at: middleNow(scale, [x - dx * by, y - dy * by]) });
}

function moveDivider(clientX) {
  const box = stage.getBoundingClientRect();
  change({ split: Math.min(100, Math.max(0, 100 * (clientX - box.left) / box.width)) });
}

// --- Pointers: one moves the divider or the image, two zoom ---

const pointers = new Map();  // id -> [x, y]
let drag = null;  // "divider" or "image"

stage.addEventListener("pointerdown", event => {
  if (event.button !== 0) return;
  event.preventDefault();
  element("viewer-title").focus();  // so that arrows mean images
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  const isOnDivider = event.target.closest("#divider") !== null;
  drag = hasDivider() && (isOnDivider || isAllInView()) ? "divider" : "image";
  if (drag === "divider" && pointers.size === 1) moveDivider(event.clientX);
});

stage.addEventListener("pointermove", event => {
  const before = pointers.get(event.pointerId), now = [event.clientX, event.clientY];
  if (!before) return;
  const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId);
  pointers.set(event.pointerId, now);
  if (others.length) pinch(before, now, others[0][1]);
  else if (drag === "divider") moveDivider(event.clientX);
  else panBy(now[0] - before[0], now[1] - before[1]);
});

function pinch(before, now, other) {
  const distance = point => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
  const middle = point => [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2];
  zoomTo(scaleNow() * distance(now) / distance(before), middle(before));
  panBy(middle(now)[0] - middle(before)[0], middle(now)[1] - middle(before)[1]);
}

for (const type of ["pointerup", "pointercancel"]) {
  stage.addEventListener(type, event => {
    pointers.delete(event.pointerId);
    if (pointers.size === 1) drag = "image";
  });
}

stage.addEventListener("wheel", event => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 30 : 1;
  zoomTo(scaleNow() * Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), [event.clientX, event.clientY]);
}, { passive: false });

stage.addEventListener("dblclick", event => {
  if (state.zoom === null) zoomTo(Math.max(1, 2 * Math.round(fittingScale())), [event.clientX, event.clientY]);
  else change({ zoom: null, at: null });
});

element("slider").addEventListener("input", event => change({ split: event.target.valueAsNumber }));
new ResizeObserver(() => element("viewer").open && showPlace()).observe(stage);
