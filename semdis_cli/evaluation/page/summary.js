// The head of the page: what was measured, the table of contenders, provenance and failures.

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
const setText = value => value?.toLocaleString("en", { maximumFractionDigits: 3 }) ?? "–";

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
    ...setNames.map(name => cell(setText(contender.set_figures[name]), numberCell(shown(name))))));
  element("summary").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows), ...differenceBodies());
}

// On narrow screens, where rows become blocks, a cell says itself what it holds.
const numberCell = (title, more = "") => ({ className: `number ${more}`, "data-label": title, role: "cell" });

function metricHead(metric) {
  const arrow = metric.is_better_high ? "↑" : "↓";
  const unit = metric.unit ? ` ${metric.unit}` : "";
  return make("span", { title: metric.is_better_high ? "higher is better" : "lower is better" },
    shown(metric.title), make("small", {}, `${unit} ${arrow}`));
}

function contenderHead(contender) {
  const name = make("div", {}, nameText(contender.title), make("small", {}, factsOf(contender).join(" · ")));
  return heading(name, "row", { role: "rowheader" });
}

// All facts of the first contender, and of the others those that differ from it.
function factsOf(contender) {
  const texts = contender.facts.map(([word, text]) => `${shown(word)} ${shown(text)}`);
  return contender === contenders[0] ? texts : texts.filter(text => !factsOf(contenders[0]).includes(text));
}

function summaryCell(contender, metric, statistic) {
  const summary = contender.summary[metric.name];
  if (!summary) return cell("–", numberCell(shown(metric.title)));
  const [text, small] = SHOWN_STATISTIC[statistic](summary, metric);
  const isBest = Number.isFinite(summary[statistic]) && summary[statistic] === best(metric, statistic);
  const value = make("span", { className: isBest ? "best" : "" }, text);
  return make("td", numberCell(shown(metric.title)), value, " ", make("small", {}, small), spread(summary, metric));
}

// Of contenders that differ; else there is none.
function best(metric, statistic) {
  const values = contenders.map(one => one.summary[metric.name]?.[statistic]).filter(Number.isFinite);
  if (new Set(values).size < 2) return undefined;
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

function showEnds() {
  const fact = ([word, text]) => [make("dt", {}, shown(word)), make("dd", {}, nameText(text))];
  const facts = contents.provenance.flatMap(fact);
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
