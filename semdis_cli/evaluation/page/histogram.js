// The histogram of the chosen figure: bars of all images measured, and below them a mark for each image of the page.

const HISTOGRAM_HEIGHT = 190, STRIP = 18;  // px
let histogramScale = null;

function showHistogram() {
  const figure = figureOf(state.figure), root = element("histogram");
  element("charts").hidden = !figure;
  if (!figure) return;
  element("histogram-title").replaceChildren(`${figureTitle(figure)} `, make("small", {}, histogramNote(figure)));
  const { edges, counts } = histogramOf(figure);
  const { context, box } = openCanvas(root, HISTOGRAM_HEIGHT);
  const bars = { ...box, bottom: box.bottom - STRIP };
  const beyond = (edges.at(-1) - edges[0]) * 0.02 || 1;
  histogramScale = linear([edges[0] - beyond, edges.at(-1) + beyond], [box.left, box.right]);
  const heights = linear([0, Math.max(1, ...counts) * 1.05], [bars.bottom, bars.top]);
  drawVerticalAxis(context, bars, heights, "images", 1);
  drawBars(context, bars, heights, edges, counts);
  drawStrip(context, box, figure);
  drawHorizontalAxis(context, box, histogramScale, "");
  const [low, high] = [edges[0], edges.at(-1)].map(edge => withUnit(edge, figure.metric));
  root.querySelector("canvas").setAttribute("aria-label",
    `Histogram: ${figureTitle(figure)} from ${low} to ${high}; ${chosen.length} of ${images.length} images are chosen`);
}

function histogramOf(figure) {
  const found = figure.minus === null && figure.contender.histograms[figure.metric.name];
  return found && found.counts.length ? merged(found) : histogramOfPage(figure);
}

// Of few images in many bins nobody sees how they are distributed: neighbours are added up.
function merged({ edges, counts }) {
  const most = Math.max(8, 2 * Math.sqrt(contents.num_measured));
  const step = Math.ceil(counts.length / most);
  const starts = counts.flatMap((_, number) => (number % step ? [] : [number]));
  return {
    edges: [...starts.map(start => edges[start]), edges.at(-1)],
    counts: starts.map(start => counts.slice(start, start + step).reduce((sum, count) => sum + count, 0)),
  };
}

function histogramNote(figure) {
  const isOfAll = figure.minus === null && figure.contender.histograms[figure.metric.name];
  return isOfAll ? plural(contents.num_measured, "image") : `${plural(images.length, "image")} of this page`;
}

function histogramOfPage(figure) {
  const values = images.map(image => valueOf(image, figure)).filter(value => value !== null);
  const [low, high] = domainOf(values), num = 40;
  const counts = new Array(num).fill(0);
  for (const value of values) counts[Math.min(num - 1, Math.floor((value - low) / (high - low) * num))]++;
  return { edges: Array.from({ length: num + 1 }, (_, number) => low + (high - low) * number / num), counts };
}

// Bars, or their parts, that lie in the range of the figure are strong.
function drawBars(context, box, heights, edges, counts) {
  const range = state.ranges.find(one => one.figure === state.figure);
  const draw = (from, to, count) => {
    const left = histogramScale(from), right = histogramScale(to), top = heights(count);
    if (right > left) context.fillRect(left + 0.5, top, Math.max(1, right - left - 1), box.bottom - top);
  };
  counts.forEach((count, number) => {
    context.fillStyle = ink(range ? "weak" : "accent");
    draw(edges[number], edges[number + 1], count);
    context.fillStyle = ink("accent");
    if (range) draw(Math.max(edges[number], range.low), Math.min(edges[number + 1], range.high), count);
  });
}

function drawStrip(context, box, figure) {
  const mark = (place, height) => {
    const value = valueOf(images[place], figure);
    if (value !== null) context.fillRect(histogramScale(value) - 0.5, box.bottom - height, 1.5, height - 1);
  };
  context.fillStyle = ink("weak");
  images.forEach((_, place) => isChosen[place] || mark(place, 6));
  context.fillStyle = ink("strong");
  chosen.forEach(place => mark(place, 11));
}

watchDrags(element("histogram"), true, {
  select: ([left, , right]) =>
    change({ ranges: setRange(figureOf(state.figure), [left, right].map(histogramScale.invert)) }),
  click: () => change({ ranges: setRange(figureOf(state.figure), null) }),
});
