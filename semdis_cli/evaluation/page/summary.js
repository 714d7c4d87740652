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
const setText = value => (value === undefined || value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: 3 }));

function showHead() {
  element("figures").hidden = contenders.length === 0;
  element("title").textContent = shown(contents.title);
  const { num_measured: measured, num_failures: failed } = contents;
  const parts = [`${plural(measured, "image")} measured`];
  if (images.length < measured) parts.push(`${images.length.toLocaleString("en")} of them on this page`);
  if (failed) parts.push(`${failed.toLocaleString("en")} failed`);
  element("subtitle").textContent = parts.join(" · ");
}

const setNames = [...new Set(contenders.flatMap(contender => Object.keys(contender.set_figures)))];

function showSummary(statistic) {
  const head = make("tr", { role: "row" }, heading(make("span", { className: "hidden" }, "Contender"), "col"),
    ...metrics.map(metric => heading(metricHead(metric), "col")),
    ...setNames.map(name => heading(shown(name), "col")));
  const rows = contenders.map(contender => make("tr", { role: "row" }, contenderHead(contender),
    ...metrics.map(metric => summaryCell(contender, metric, statistic)),
    ...setNames.map(name => cell(setText(contender.set_figures[name]), { className: "number", ...labelled(shown(name)) }))));
  element("summary").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows), ...differenceBodies());
}

// On narrow screens, where rows become blocks, a cell says itself what it holds.
const labelled = title => ({ "data-label": title, role: "cell" });

function metricHead(metric) {
  const arrow = metric.is_better_high ? "↑" : "↓";
  const unit = metric.unit ? ` ${metric.unit}` : "";
  return make("span", { title: metric.is_better_high ? "higher is better" : "lower is better" },
    shown(metric.title), make("small", {}, `${unit} ${arrow}`));
}

function contenderHead(contender) {
  const facts = contender.facts.map(([word, text]) => `${shown(word)} ${shown(text)}`).join(" · ");
  return heading(make("div", {}, nameText(contender.title), make("small", {}, facts)), "row", { role: "rowheader" });
}

function summaryCell(contender, metric, statistic) {
  const summary = contender.summary[metric.name];
  if (!summary) return cell("–", { className: "number", ...labelled(shown(metric.title)) });
  const [text, small] = SHOWN_STATISTIC[statistic](summary, metric);
  const isBest = contenders.length > 1 && statistic in summary && summary[statistic] === best(metric, statistic);
  const value = make("span", { className: isBest ? "best" : "" }, text);
  return make("td", { className: "number", ...labelled(shown(metric.title)) }, value, " ", make("small", {}, small), spread(summary, metric));
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

// Differences of each pair of contenders, below the figures themselves and in their columns.
function differenceBodies() {
  const pairs = new Map();
  for (const one of contents.differences) {
    const name = JSON.stringify([one.contender, one.baseline]);
    pairs.set(name, { ...pairs.get(name), [one.metric]: one, contender: one.contender, baseline: one.baseline });
  }
  if (!pairs.size) return [];
  const rows = make("tbody", { id: "differences", hidden: !areDifferencesOpen }, ...[...pairs.values()].map(differenceRow));
  return [make("tbody", {}, make("tr", { className: "between", role: "row" }, differencesTitle(rows))), rows];
}

// Of many contenders they would push the images far down.
let areDifferencesOpen = new Set(contents.differences.map(one => JSON.stringify([one.contender, one.baseline]))).size <= 3;

function differencesTitle(rows) {
  const levels = [...new Set(contents.differences.map(one => `${Math.round(100 * one.level)} %`))].join(", ");
  const button = make("button", { type: "button", className: "link", "aria-expanded": areDifferencesOpen, "aria-controls": "differences" }, "Paired differences");
  button.addEventListener("click", () => {
    areDifferencesOpen = rows.hidden;
    rows.hidden = !areDifferencesOpen;
    button.setAttribute("aria-expanded", areDifferencesOpen);
  });
  return heading(make("span", {}, button, make("small", {}, ` mean over the same images, and its interval of ${levels}`)), "rowgroup",
    { colSpan: 1 + metrics.length + setNames.length, role: "rowheader" });
}

function differenceRow(pair) {
  const name = make("div", {}, nameText(pair.contender), make("small", {}, "minus ", nameText(pair.baseline)));
  return make("tr", { role: "row" }, heading(name, "row", { role: "rowheader" }),
    ...metrics.map(metric => differenceCell(pair[metric.name], metric)),
    ...setNames.map(() => cell("", { role: "cell" })));
}

function differenceCell(difference, metric) {
  if (!difference) return cell("–", { className: "number", ...labelled(shown(metric.title)) });
  const signed = value => `${value < 0 ? "−" : "+"}${numberText(Math.abs(value), { digits: metric.digits + 1 })}`;
  const isClear = difference.low > 0 || difference.high < 0;
  const isBetter = (difference.mean > 0) === metric.is_better_high;
  const isEqual = difference.low === 0 && difference.high === 0;
  const verdict = isEqual ? "equal" : isClear ? (isBetter ? "better" : "worse") : "unclear";
  return make("td", { className: `number ${verdict}`, title: plural(difference.num, "image"), ...labelled(shown(metric.title)) },
    signed(difference.mean), " ", make("small", { className: "verdict" }, verdict), " ",
    make("span", { className: "ends-of" }, `${signed(difference.low)} … ${signed(difference.high)}`, interval(difference)));
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
