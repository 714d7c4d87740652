// Paired differences: bodies of the table of contenders, below the figures themselves and in their columns.

// The differences of each pair of contenders, by metric.
const pairs = new Map();
for (const one of contents.differences) {
  const name = JSON.stringify([one.contender, one.baseline]);
  if (!pairs.has(name)) pairs.set(name, { contender: one.contender, baseline: one.baseline, byMetric: new Map() });
  pairs.get(name).byMetric.set(one.metric, one);
}
let areDifferencesOpen = pairs.size <= 3;  // more would push the images far down

function differenceBodies() {
  if (!pairs.size) return [];
  const rows = [...pairs.values()].map(differenceRow);
  const body = make("tbody", { id: "differences", hidden: !areDifferencesOpen }, ...rows);
  return [make("tbody", {}, make("tr", { className: "between", role: "row" }, differencesTitle(body))), body];
}

function differencesTitle(body) {
  const levels = [...new Set(contents.differences.map(one => `${Math.round(100 * one.level)} %`))].join(", ");
  const properties = { className: "link", "aria-expanded": areDifferencesOpen, "aria-controls": "differences" };
  const button = make("button", { type: "button", ...properties }, "Paired differences");
  button.addEventListener("click", () => {
    areDifferencesOpen = body.hidden;
    body.hidden = !areDifferencesOpen;
    button.setAttribute("aria-expanded", areDifferencesOpen);
  });
  const note = make("small", {}, ` mean over the same images, and its interval of ${levels}`);
  const columns = 1 + metrics.length + setNames.length;
  return heading(make("span", {}, button, note), "rowgroup", { colSpan: columns, role: "rowheader" });
}

function differenceRow({ contender, baseline, byMetric }) {
  const name = make("div", {}, nameText(contender), make("small", {}, "minus ", nameText(baseline)));
  return make("tr", { role: "row" }, heading(name, "row", { role: "rowheader" }),
    ...metrics.map(metric => differenceCell(byMetric.get(metric.name), metric)),
    ...setNames.map(() => cell("", { role: "cell" })));
}

function differenceCell(difference, metric) {
  if (!difference) return cell("–", numberCell(shown(metric.title)));
  // Differences are small: a digit more than figures have.
  const signed = value => {
    const text = numberText(Math.abs(value), { digits: metric.digits + 1 });
    return `${value < 0 && Number(text) !== 0 ? "−" : "+"}${text}`;
  };
  const verdict = verdictOf(difference, metric);
  const ends = `${signed(difference.low)} … ${signed(difference.high)}`;
  return make("td", { ...numberCell(shown(metric.title), verdict), title: plural(difference.num, "image") },
    signed(difference.mean), " ", make("small", { className: "verdict" }, verdict), " ",
    make("span", { className: "ends-of" }, ends, interval(difference)));
}

function verdictOf({ mean, low, high }, metric) {
  if (low === 0 && high === 0) return "equal";
  if (low <= 0 && high >= 0) return "unclear";
  return (mean > 0) === metric.is_better_high ? "better" : "worse";
}

// On one scale for all differences of a metric, zero in the middle.
function interval(difference) {
  const same = contents.differences.filter(one => one.metric === difference.metric);
  const most = Math.max(...same.flatMap(one => [Math.abs(one.low), Math.abs(one.high)])) || 1;
  const share = value => `${50 + 50 * value / most}%`;
  const style = { "--from": share(difference.low), "--to": share(difference.high), "--at": share(difference.mean) };
  return make("span", { className: "interval", style, "aria-hidden": "true" });
}
