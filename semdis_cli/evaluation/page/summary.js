// The head of the page: what was measured, the table of contenders, paired differences, provenance and failures.

const STATISTICS = [
  ["mean", "mean ± std"],
  ["median", "median"],
  ["p90", "5 % to 95 %"],
  ["range", "min to max"],
];
const SHOWN_STATISTIC = {
  mean: (summary, metric) => [numberText(summary.mean, metric), `± ${numberText(summary.std, metric)}`],
  median: (summary, metric) => [numberText(summary.median, metric), ""],
  p90: (summary, metric) => [`${numberText(summary.p5, metric)} – ${numberText(summary.p95, metric)}`, ""],
  range: (summary, metric) => [`${numberText(summary.min, metric)} – ${numberText(summary.max, metric)}`, ""],
};
const SET_METRIC = { digits: 3 };

function showHead() {
  element("title").textContent = shown(contents.title);
  const { num_measured: measured, num_failures: failed } = contents;
  const parts = [`${plural(measured, "image")} measured`];
  if (images.length < measured) parts.push(`${images.length.toLocaleString("en")} of them on this page`);
  if (failed) parts.push(`${failed.toLocaleString("en")} failed`);
  element("subtitle").textContent = parts.join(" · ");
}

const setNames = [...new Set(contenders.flatMap(contender => Object.keys(contender.set_figures)))];

function showSummary(statistic) {
  const head = make("tr", {}, heading("", "col"),
    ...metrics.map(metric => heading(metricHead(metric), "col")),
    ...setNames.map(name => heading(shown(name), "col")));
  const rows = contenders.map(contender => make("tr", {}, contenderHead(contender),
    ...metrics.map(metric => summaryCell(contender, metric, statistic)),
    ...setNames.map(name => cell(numberText(contender.set_figures[name], SET_METRIC), { className: "number" }))));
  element("summary").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function metricHead(metric) {
  const arrow = metric.is_better_high ? "↑" : "↓";
  const unit = metric.unit ? ` ${metric.unit}` : "";
  return make("span", { title: metric.is_better_high ? "higher is better" : "lower is better" },
    shown(metric.title), make("small", {}, `${unit} ${arrow}`));
}

function contenderHead(contender) {
  const facts = contender.facts.map(([word, text]) => `${shown(word)} ${shown(text)}`).join(" · ");
  return heading(make("div", {}, nameText(contender.title), make("small", {}, facts)), "row");
}

function summaryCell(contender, metric, statistic) {
  const summary = contender.summary[metric.name];
  if (!summary) return cell("–", { className: "number" });
  const [text, small] = SHOWN_STATISTIC[statistic](summary, metric);
  const isBest = contenders.length > 1 && statistic in summary && summary[statistic] === best(metric, statistic);
  const value = make("span", { className: isBest ? "best" : "" }, text);
  return make("td", { className: "number" }, value, make("small", {}, small), spread(summary, metric));
}

function best(metric, statistic) {
  const values = contenders.map(one => one.summary[metric.name]?.[statistic]).filter(Number.isFinite);
  return metric.is_better_high ? Math.max(...values) : Math.min(...values);
}

// The middle nine tenths as a band and the mean as a mark, on one scale for all contenders.
function spread(summary, metric) {
  const all = contenders.map(one => one.summary[metric.name]).filter(Boolean);
  const low = Math.min(...all.map(one => one.min)), high = Math.max(...all.map(one => one.max));
  const share = value => `${high > low ? 100 * (value - low) / (high - low) : 50}%`;
  const style = { "--from": share(summary.p5), "--to": share(summary.p95), "--at": share(summary.mean) };
  return make("span", { className: "spread", style, "aria-hidden": "true" });
}

function showDifferences() {
  const { differences } = contents;
  element("differences").hidden = differences.length === 0;
  if (!differences.length) return;
  const head = ["Metric", "Contender", "against", "Difference", "Interval", "", "Images"];
  element("difference-table").replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map(text => heading(text, "col")))),
    make("tbody", {}, ...differences.map(differenceRow)));
  const levels = [...new Set(differences.map(one => `${Math.round(100 * one.level)} %`))].join(", ");
  element("difference-note").textContent =
    `Means of the differences image by image, with intervals of ${levels}. An interval beyond zero is a difference.`;
}

function differenceRow(difference) {
  const metric = metrics.find(one => one.name === difference.metric) ?? { title: difference.metric, digits: 3, unit: "" };
  const signed = value => `${value < 0 ? "−" : "+"}${numberText(Math.abs(value), { digits: metric.digits + 1 })}`;
  const isClear = difference.low > 0 || difference.high < 0;
  const isBetter = (difference.mean > 0) === metric.is_better_high;
  const verdict = isClear ? (isBetter ? "better" : "worse") : "unclear";
  return make("tr", { className: verdict },
    heading(shown(metric.title), "row"), cell(nameText(difference.contender)), cell(nameText(difference.baseline)),
    make("td", { className: "number" }, make("b", {}, signed(difference.mean)), make("small", {}, metric.unit)),
    cell(`${signed(difference.low)} to ${signed(difference.high)}`, { className: "number" }),
    make("td", {}, interval(difference), make("small", { className: "verdict" }, verdict)),
    cell(difference.num.toLocaleString("en"), { className: "number" }));
}

// On one scale for all differences of a metric, zero in the middle.
function interval(difference) {
  const same = contents.differences.filter(one => one.metric === difference.metric);
  const most = Math.max(...same.flatMap(one => [Math.abs(one.low), Math.abs(one.high)])) || 1;
  const share = value => `${50 + 50 * value / most}%`;
  const style = { "--from": share(difference.low), "--to": share(difference.high), "--at": share(difference.mean) };
  return make("span", { className: "interval", style, "aria-hidden": "true" });
}

function showEnds() {
  const facts = contents.provenance.flatMap(([word, text]) => [make("dt", {}, shown(word)), make("dd", {}, nameText(text))]);
  element("provenance").hidden = facts.length === 0;
  element("provenance").querySelector("dl").replaceChildren(...facts);
  const { failures, num_failures: num } = contents;
  const details = element("failures");
  details.hidden = num === 0;
  const listed = failures.length < num ? `, the first ${failures.length.toLocaleString("en")} of them` : "";
  details.querySelector("summary").textContent = `Failures (${num.toLocaleString("en")}${listed})`;
  details.querySelector("table").replaceChildren(
    ...failures.map(([key, reason]) => make("tr", {}, heading(nameText(key), "row"), cell(shown(reason)))));
}
