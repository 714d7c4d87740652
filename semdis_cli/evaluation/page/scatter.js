// The scatter plot: the chosen figure against another one, a dot for each image of the page.

const SCATTER_HEIGHT = 190, NEAR = 12;  // px
let scatterScales = null;

function showScatter() {
  const across = figureOf(state.figure), up = figureOf(state.other), root = element("scatter");
  if (!across || !up) return;
  fillSelect(element("other"), figures.map(figure => [figure.id, figureTitle(figure)]), state.other);
  const { context, box } = openCanvas(root, SCATTER_HEIGHT, MARGIN.bottom + 14);
  scatterScales = [
    linear(domainOf(valuesOf(across)), [box.left, box.right]),
    linear(domainOf(valuesOf(up)), [box.bottom, box.top]),
  ];
  drawVerticalAxis(context, box, scatterScales[1], "");
  drawHorizontalAxis(context, box, scatterScales[0], figureTitle(across));
  if (across.metric === up.metric && across.minus === up.minus) drawDiagonal(context, box);
  drawDots(context);
  root.querySelector("canvas").setAttribute("aria-label",
    `Scatter plot: ${figureTitle(up)} against ${figureTitle(across)}; ` +
    `${chosen.length} of ${images.length} images are chosen`);
}

function valuesOf(figure) {
  return images.map(image => valueOf(image, figure)).filter(value => value !== null);
}

// Where both figures are equal.
function drawDiagonal(context, box) {
  const [x, y] = scatterScales;
  context.save();
  context.beginPath();
  context.rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  context.clip();
  context.setLineDash([4, 4]);
  context.strokeStyle = ink("soft");
  line(context, x(x.domain[0]), y(x.domain[0]), x(x.domain[1]), y(x.domain[1]));
  context.restore();
}

function dotOf(image) {
  const across = valueOf(image, figureOf(state.figure)), up = valueOf(image, figureOf(state.other));
  return across === null || up === null ? null : [scatterScales[0](across), scatterScales[1](up)];
}

function drawDots(context) {
  const radius = images.length > 500 ? 2.2 : 3.2;
  for (const [isDrawn, colour] of [[place => !isChosen[place], "weak"], [place => isChosen[place], "accent"]]) {
    context.fillStyle = ink(colour);
    context.globalAlpha = images.length > 500 ? 0.7 : 0.85;
    context.beginPath();
    images.forEach((image, place) => {
      const dot = isDrawn(place) && dotOf(image);
      if (!dot) return;
      context.moveTo(dot[0] + radius, dot[1]);
      context.arc(...dot, radius, 0, 2 * Math.PI);
    });
    context.fill();
  }
}

function imageNear([x, y]) {
  let nearest = null, least = NEAR;
  for (const image of images) {
    const dot = dotOf(image);
    const distance = dot ? Math.hypot(dot[0] - x, dot[1] - y) : Infinity;
    if (distance < least) [nearest, least] = [image, distance];
  }
  return nearest;
}

const otherRanges = () => state.ranges.filter(range => range.figure !== state.figure && range.figure !== state.other);

watchDrags(element("scatter"), false, {
  select: ([left, top, right, bottom]) => {
    const across = { figure: state.figure, low: scatterScales[0].invert(left), high: scatterScales[0].invert(right) };
    const up = { figure: state.other, low: scatterScales[1].invert(bottom), high: scatterScales[1].invert(top) };
    change({ ranges: [...otherRanges(), across, ...(state.figure === state.other ? [] : [up])] });
  },
  click: place => {
    const image = imageNear(place);
    if (image) change({ image: image.key });
    else change({ ranges: otherRanges() });
  },
});
element("scatter").addEventListener("pointermove", event => {
  const box = element("scatter").getBoundingClientRect();
  const image = scatterScales && imageNear([event.clientX - box.left, event.clientY - box.top]);
  element("scatter").title = image ? shown(image.key) : "";
  element("scatter").classList.toggle("near", Boolean(image));
});
element("other").addEventListener("change", event => change({ other: event.target.value }));
