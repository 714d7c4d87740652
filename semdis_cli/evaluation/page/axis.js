// What both charts have in common: a canvas as sharp as the screen, round numbers on an axis, a drag that selects.

const MARGIN = { left: 46, right: 12, top: 10, bottom: 24 };  // px

// Returns the context, cleared, in CSS px, and the rectangle for the data.
function openCanvas(root, height, bottom = MARGIN.bottom) {
  const canvas = root.querySelector("canvas"), width = root.clientWidth, ratio = devicePixelRatio;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const box = { left: MARGIN.left, top: MARGIN.top, right: width - MARGIN.right, bottom: height - bottom };
  return { context, box };
}

// A colour of the style sheet as it is now, light or dark.
function ink(name) {
  const probe = element("title");
  probe.style.color = `var(--${name})`;
  const colour = getComputedStyle(probe).color;
  probe.style.color = "";
  return colour;
}

function linear([low, high], [from, to]) {
  const scale = value => from + (value - low) / (high - low) * (to - from);
  scale.invert = at => low + (at - from) / (to - from) * (high - low);
  scale.domain = [low, high];
  return scale;
}

// A little more than the values reach.
function domainOf(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  const beyond = (high - low) * 0.03 || Math.abs(high) * 0.05 || 1;
  return [low - beyond, high + beyond];
}

// `least`: the smallest step, 1 for counts.
function ticks([low, high], most, least = 0) {
  const rough = Math.max(least, (high - low) / most), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(low / step), last = Math.floor(high / step);
  return Array.from({ length: last - first + 1 }, (_, number) => [(first + number) * step, digits]);
}

function drawHorizontalAxis(context, box, scale, title) {
  context.strokeStyle = ink("line");
  context.fillStyle = ink("soft");
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const [value, digits] of ticks(scale.domain, Math.max(2, (box.right - box.left) / 70))) {
    const x = Math.round(scale(value)) + 0.5;
    line(context, x, box.bottom, x, box.bottom + 4);
    context.fillText(value.toFixed(digits), x, box.bottom + 6);
  }
  line(context, box.left, box.bottom + 0.5, box.right, box.bottom + 0.5);
  context.textAlign = "right";
  context.fillText(title, box.right, box.bottom + 21);
}

function drawVerticalAxis(context, box, scale, title, least) {
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const [value, digits] of ticks(scale.domain, 5, least)) {
    const y = Math.round(scale(value)) + 0.5;
    context.strokeStyle = ink("faint");
    line(context, box.left, y, box.right, y);
    context.fillStyle = ink("soft");
    context.fillText(value.toFixed(digits), box.left - 6, y);
  }
  context.textAlign = "left";
  context.textBaseline = "top";
  context.fillText(title, box.left + 4, box.top);
}

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

// Calls `select` with the corners of a dragged rectangle, or `click` where nothing was dragged.
function watchDrags(root, isTall, { select, click }) {
  const canvas = root.querySelector("canvas"), brush = root.querySelector(".brush");
  let from = null;
  const place = event => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const corners = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    from = place(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    if (!from) return;
    const [left, top, right, bottom] = corners(from, place(event));
    const width = right - left;
    const sides = isTall ? { left, top: MARGIN.top, width } : { left, top, width, height: bottom - top };
    for (const [side, value] of Object.entries(sides)) brush.style[side] = `${value}px`;
    brush.hidden = false;
  });
  const end = event => {
    if (!from) return;
    const to = place(event), [left, top, right, bottom] = corners(from, to);
    from = null;
    brush.hidden = true;
    if (event.type === "pointercancel") return;
    if (right - left < 5 && bottom - top < 5) click(to);
    else select([left, top, right, bottom]);
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
}
