// Small parts that the page is put together from. Knows the document, nothing of answers or versions.

export const $ = (id) => document.getElementById(id);
export const digits = (score) => score.toFixed(2);
export const scoreOf = ({ label, scores }) => scores.find((one) => one.label === label)?.score ?? 0;
export const seconds = (number) => `${number.toFixed(1)} s`;

export function element(name, content = "", className = "") {
  const made = document.createElement(name);
  made.append(...[content].flat());
  made.className = className;
  return made;
}

/** Fill a list with one bar for each { name, value, hint }; values are in [0, 1]. */
export function bars(list, rows) {
  list.replaceChildren(...rows.map(({ name, value, hint }) => {
    const bar = element("span", "", "bar");
    bar.style.width = `${100 * value}%`;
    const cells = [element("span", name, "name"), element("span", bar, "track"), element("span", digits(value), "value")];
    return element("li", hint ? [...cells, element("span", hint, "hint")] : cells);
  }));
}

/** How long ago a moment was, in words. */
export function ago(moment) {
  const passed = Math.max(0, (Date.now() - moment) / 1000);
  if (passed < 60) return `${Math.floor(passed)} s`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min`;
  return passed < 86400 ? `${Math.floor(passed / 3600)} h` : `${Math.floor(passed / 86400)} days`;
}
