// Elements. Text is always set as text: nothing that comes with the data can become markup.

const element = id => document.getElementById(id);

// `properties`: of the element, or attributes where their name has a dash or is `role`; `style`: custom properties.
function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") for (const [key, text] of Object.entries(value)) made.style.setProperty(key, text);
    else if (name.includes("-") || name === "role" || name === "scope") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter(child => child !== null));
  return made;
}

// A name within a text keeps its direction to itself.
const nameText = name => make("bdi", {}, shown(name));

function fillSelect(select, options, chosen) {
  const made = options.map(([value, title]) => make("option", { value, selected: value === chosen }, title));
  select.replaceChildren(...made);
}

function cell(text, properties = {}) {
  return make("td", properties, text);
}

function heading(text, scope, properties = {}) {
  return make("th", { scope, ...properties }, text);
}
