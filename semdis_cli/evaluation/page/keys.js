// The keyboard: one table, which the help shows too.

const isViewing = () => viewer.open && !element("help").open;
const isBrowsing = () => !viewer.open && !element("help").open;

// [keys, what they are called, what they do, when, action]
const KEYS = [
  [["/"], "/", "Search in names", isBrowsing, () => element("search").focus()],
  [[], "← → ↑ ↓", "Go from image to image in the gallery", isBrowsing, null],
  [[], "Enter", "Open an image", isBrowsing, null],
  [["ArrowLeft"], "←", "Previous image", isViewing, () => stepImage(-1)],
  [["ArrowRight"], "→", "Next image", isViewing, () => stepImage(1)],
  [["ArrowUp"], "↑", "Previous contender on the right", isViewing, () => stepContender(-1)],
  [["ArrowDown"], "↓", "Next contender on the right", isViewing, () => stepContender(1)],
  [["1"], "1", "Slider", isViewing, () => setLayer("slider")],
  [["2"], "2", "Side by side", isViewing, () => setLayer("side")],
  [["3"], "3", "Difference", isViewing, () => setLayer("difference")],
  [["4"], "4", "Latents: their principal components as red, green and blue", isViewing, () => setLayer("latents")],
  [["+", "="], "+", "Larger", isViewing, () => zoomStep(1)],
  [["-", "_"], "−", "Smaller", isViewing, () => zoomStep(-1)],
  [["0"], "0", "One pixel of the image on one of the screen", isViewing, () => zoomTo(1)],
  [["f", "F"], "f", "Fit into the window", isViewing, () => change({ zoom: null, at: null })],
  [["x", "X"], "x", "Swap left and right", isViewing, swapSides],
  [["b", "B"], "b", "Hold: only the right picture, in the same place", isViewing, () => stage.classList.add("blink")],
  [["["], "[", "Less gain", isViewing, () => stepGain(-1)],
  [["]"], "]", "More gain", isViewing, () => stepGain(1)],
  [[], "Esc", "Close", isViewing, null],
  [["?"], "?", "These keys", () => !element("help").open, () => element("help").showModal()],
];

const isText = target => target.matches("input:not([type=range])");
// These have a use for arrows of their own.
const takesArrows = target => target.matches("input[type=range], select");

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (isText(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key.startsWith("Arrow") && takesArrows(event.target)) return;
  const found = KEYS.find(([keys, , , isNow]) => keys.includes(event.key) && isNow());
  if (!found) return;
  event.preventDefault();
  found[4]();
});
addEventListener("keyup", event => event.key.toLowerCase() === "b" && stage.classList.remove("blink"));
addEventListener("blur", () => stage.classList.remove("blink"));

function fillHelp() {
  const entry = ([, name, text]) =>
    [make("dt", {}, ...name.split(" ").map(key => make("kbd", {}, key))), make("dd", {}, text)];
  const part = (title, isPart) => [make("h3", {}, title), make("dl", {}, ...KEYS.filter(isPart).flatMap(entry))];
  const note = "Wheel or pinch zooms. Dragging moves the picture, or the divider where all of it is in view. " +
    "A double click enlarges.";
  element("keys").replaceChildren(
    ...part("Page", key => key[3] !== isViewing), ...part("One image", key => key[3] === isViewing),
    make("p", { className: "note" }, note));
}
