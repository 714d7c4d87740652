// The gallery: rows of equal height as wide as the window. Only what is near the window exists.

const GAP = 10, CAPTION = 26, BEYOND = 500;  // px
const gallery = element("gallery");
let rows = [];  // { top, height, first, tiles: [{ at, left, width }] }, `at` and `first`: in `chosen`
let active = 0;  // in `chosen`: the tile that Tab leads to
const tiles = new Map();  // place of image -> node

function layOut() {
  const width = gallery.clientWidth;
  const target = width < 600 ? 104 : 138;
  rows = [];
  let top = 0, first = 0, sum = 0;
  for (let at = 0; at < chosen.length; at++) {
    sum += shape(chosen[at]);
    const space = width - (at - first) * GAP;
    const isLast = at === chosen.length - 1;
    if (sum * target < space && !isLast) continue;
    const height = Math.round(Math.min(space / sum, target * 1.25));
    rows.push({ top, height, first, tiles: tilesOfRow(first, at, space / sum > height ? height : space / sum) });
    top += height + CAPTION + GAP;
    first = at + 1;
    sum = 0;
  }
  gallery.style.height = `${Math.max(0, top - GAP)}px`;
}

function tilesOfRow(first, last, height) {
  let left = 0;
  return Array.from({ length: last - first + 1 }, (_, number) => {
    const tile = { at: first + number, left, width: height * shape(chosen[first + number]) };
    left += tile.width + GAP;
    return tile;
  });
}

// Width over height; of very long ones the ends are cut off.
function shape(place) {
  const [height, width] = images[place].size;
  return Math.min(2.6, Math.max(0.72, width / height));
}

const rowOf = at => rows.findLast(row => row.first <= at);

function showTiles() {
  const top = -gallery.getBoundingClientRect().top - BEYOND;
  const bottom = top + innerHeight + 2 * BEYOND;
  const near = rows.filter(row => row.top + row.height + CAPTION > top && row.top < bottom);
  const activeRow = rowOf(active);
  if (activeRow && !near.includes(activeRow)) {
    near.push({ ...activeRow, tiles: activeRow.tiles.filter(tile => tile.at === active) });
    near.sort((a, b) => a.top - b.top);
  }
  const needed = new Set(near.flatMap(row => row.tiles.map(tile => chosen[tile.at])));
  for (const [place, node] of tiles) {
    if (needed.has(place)) continue;
    node.remove();
    tiles.delete(place);
  }
  let before = null;
  for (const row of near) for (const tile of row.tiles) before = placeTile(row, tile, before);
}

// `before`: the node before it, so that those who hear the page hear it in order.
function placeTile(row, tile, before) {
  const place = chosen[tile.at];
  let node = tiles.get(place);
  if (!node) {
    node = makeTile(place);
    tiles.set(place, node);
    if (before) before.after(node);
    else gallery.prepend(node);
  }
  node.style.transform = `translate(${tile.left}px, ${row.top}px)`;
  node.style.width = `${tile.width}px`;
  node.style.setProperty("--height", `${row.height}px`);
  node.setAttribute("aria-posinset", tile.at + 1);
  node.setAttribute("aria-setsize", chosen.length);
  node.firstChild.tabIndex = tile.at === active ? 0 : -1;
  return node;
}

function makeTile(place) {
  const image = images[place];
  const picture = make("img", { alt: "", decoding: "async", draggable: false, src: pictureUrl(place, "thumb") });
  const name = make("bdi", { className: "name" }, shown(image.key.split("/").at(-1)));
  const button = make("button", { type: "button", className: "tile", title: shown(image.key) },
    make("span", { className: "frame" }, picture),
    make("span", { className: "caption" }, name, ...valueText(image)));
  button.addEventListener("click", () => change({ image: image.key }));
  button.addEventListener("focus", () => setActive(chosen.indexOf(place)));
  return make("div", { role: "listitem", className: "place" }, button);
}

// What figure it is, and its unit, are said and not shown.
function valueText(image) {
  const figure = figureOf(state.figure);
  if (!figure) return [];
  const hidden = text => make("span", { className: "hidden" }, text);
  const value = make("b", {}, numberText(valueOf(image, figure), figure.metric));
  return [hidden(`${figureTitle(figure)} `), value, hidden(` ${figure.metric.unit}`)];
}

function setActive(at) {
  const before = tiles.get(chosen[active]);
  active = Math.max(0, Math.min(chosen.length - 1, at));
  if (before) before.firstChild.tabIndex = -1;
  const now = tiles.get(chosen[active]);
  if (now) now.firstChild.tabIndex = 0;
}

function focusTile(at) {
  if (at < 0 || at >= chosen.length) return;
  setActive(at);
  showTiles();
  tiles.get(chosen[active])?.firstChild.focus();
}

function showGallery() {
  for (const node of tiles.values()) node.remove();
  tiles.clear();
  active = 0;
  layOut();
  showTiles();
  element("nothing").hidden = chosen.length > 0;
  element("nothing-text").textContent = images.length ? "No image is left." : "This page has no images.";
  element("clear").hidden = images.length === 0;
}

const STEPS = {
  ArrowLeft: at => at - 1,
  ArrowRight: at => at + 1,
  ArrowUp: at => besides(at, -1),
  ArrowDown: at => besides(at, 1),
  Home: () => 0,
  End: () => chosen.length - 1,
};

// The tile above or below whose middle is nearest.
function besides(at, step) {
  const number = rows.indexOf(rowOf(at)), row = rows[number + step];
  if (!row) return at;
  const middle = tile => tile.left + tile.width / 2;
  const from = middle(rows[number].tiles[at - rows[number].first]);
  const distance = tile => Math.abs(middle(tile) - from);
  return row.tiles.reduce((best, tile) => (distance(tile) < distance(best) ? tile : best)).at;
}

gallery.addEventListener("keydown", event => {
  const step = STEPS[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  focusTile(step(active));
});

let isWaiting = false;
addEventListener("scroll", () => {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    showTiles();
  });
}, { passive: true });

let laidOutWidth = 0;
new ResizeObserver(() => {
  if (gallery.clientWidth === laidOutWidth) return;
  laidOutWidth = gallery.clientWidth;
  layOut();
  showTiles();
}).observe(gallery);
