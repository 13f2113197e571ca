// The lists beside the image, the help, and small pieces of text.

export const $ = (id) => document.getElementById(id);

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// Far apart for neighbours in the list, and the same for an instance in every window.
export function colour(handle, place) {
  const number = typeof handle.id === "number" ? handle.id : place + 1;
  return `hsl(${(number * 137.508 + 150) % 360} 92% 62%)`;
}

export class ImageList {
  constructor(onOpen) {
    this.rows = [];
    $("image-list").addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) onOpen(Number(row.dataset.index));
    });
  }

  fill(scenes) {
    this.rows = scenes.map((scene, index) => {
      // a long path loses its beginning: the list runs from right to left, the name inside does not
      const name = element("span", "grow", element("bdi", "", scene.name));
      const row = element("button", "row image", element("span", "tick"), name, element("span", "num"));
      row.dataset.index = index;
      row.title = scene.name;
      return row;
    });
    $("image-list").replaceChildren(...this.rows);
    scenes.forEach((scene, index) => this.update(index, scene));
  }

  // Shows the rows in another order.
  order(indices) {
    $("image-list").replaceChildren(...indices.map((index) => this.rows[index]));
  }

  update(index, scene) {
    const [tick, , count] = this.rows[index].children;
    tick.textContent = scene.problem ? "!" : scene.done ? "✓" : "";
    this.rows[index].classList.toggle("broken", Boolean(scene.problem));
    count.textContent = scene.instances || "";
    const unsure = scene.uncertainty === undefined ? "" : `\nThe engine is unsure: ${Math.round(100 * scene.uncertainty)}%`;
    this.rows[index].title = `${scene.name}${unsure}`;
  }

  current(index) {
    this.rows.forEach((row, i) => row.setAttribute("aria-current", i === index));
    this.rows[index]?.scrollIntoView({ block: "nearest" });
  }

  progress(scenes) {
    const done = scenes.filter((scene) => scene.done).length;
    $("progress").textContent = `${done} of ${scenes.length} done`;
    $("bar").style.width = `${(100 * done) / scenes.length}%`;
  }
}

export class InstanceList {
  constructor(onSelect, onRemove) {
    this.shown = [];
    $("instance-list").addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (!row) return;
      const { handle } = this.shown[Number(row.dataset.place)];
      if (event.target.closest(".remove")) onRemove(handle);
      else onSelect(handle);
    });
  }

  // entries: as View.paint takes them, with handle
  fill(entries, ready) {
    this.shown = entries;
    const points = entries.reduce((sum, entry) => sum + entry.points.length, 0);
    $("count").textContent = entries.length ? `${entries.length} · ${points} point${points === 1 ? "" : "s"}` : "";
    const rows = entries.map((entry, place) => this.row(entry, place));
    if (!rows.length && ready) rows.push(element("p", "empty", "None yet. Click an object in the image."));
    $("instance-list").replaceChildren(...rows);
    const current = rows.find((row) => row.getAttribute("aria-current") === "true");
    current?.scrollIntoView({ block: "nearest" });
  }

  row({ handle, labels, box, colour: hue, className, current, mask, title }, place) {
    const positive = labels.filter((label) => label === 1).length;
    const swatch = element("span", "swatch");
    swatch.style.setProperty("--colour", hue);
    const counts = `${box ? "▭ " : ""}${positive}+${labels.length > positive ? ` ${labels.length - positive}−` : ""}`;
    const named = element("span", "title", title, element("span", "class-name", className ? ` ${className}` : ""));
    const select = element("button", "select", swatch, named, element("span", "num", counts));
    const problem = positive || box ? mask?.problem : "needs a positive point";
    if (problem) {
      const sign = element("span", "warn", "!");
      sign.title = problem;
      select.append(sign);
    } else if (mask?.empty) select.append(element("span", "num score", "no mask"));
    else if (mask?.path) {
      const score = element("span", "num score", `${Math.round(mask.score * 100)}%`);
      score.title = "The engine's own estimate of the mask's IoU";
      select.append(score);
    }
    const remove = element("button", "remove", "×");
    remove.title = "Delete this instance";
    remove.setAttribute("aria-label", `Delete instance ${handle.id ?? ""}`);
    const row = element("div", "row instance", select, remove);
    row.dataset.place = place;
    row.setAttribute("aria-current", current);
    return row;
  }
}

const HELP = [
  ["Points", [
    ["Click", "add a point to the current instance"],
    ["Right-click", "add a negative point: not part of it (also Alt-click)"],
    ["Shift-click", "start a new instance here"],
    ["Shift-drag", "draw a box around the current instance, or a new one"],
    ["B", "every drag draws a box (Space moves the image)"],
    ["N  Enter", "the next click begins a new instance"],
    ["O", "every click begins a new instance"],
    ["Drag a point", "move it"],
    ["Click a point", "select it and its instance; select a box by its corner"],
    ["Del", "delete the selected point or box, else the instance"],
    ["X", "delete the current instance"],
    ["[  ]", "previous, next instance"],
    ["Ctrl-Z", "undo"],
    ["Ctrl-Shift-Z", "redo (also Ctrl-Y)"],
  ]],
  ["Classes", [
    ["1 … 9", "the class of the next instances and of the current one; again: none"],
  ]],
  ["Engine proposals (dashed)", [
    ["A", "accept the highlighted one"],
    ["R", "reject it"],
    ["Tab", "select the next one, or point at it"],
    ["P", "show or hide proposals"],
    ["U", "images of which the engine is least sure first"],
  ]],
  ["Images", [
    ["→  J", "next image"],
    ["←  K", "previous image"],
    ["D", "mark done, go to the next that is not"],
  ]],
  ["View", [
    ["Wheel  +  −", "zoom"],
    ["Drag", "move the image (with Space also from a point)"],
    ["F  0", "fit the image"],
    ["Z", "image pixels as screen pixels"],
    ["M", "show or hide masks"],
    ["H", "show or hide points"],
    ["T", "light, dark, as the system"],
    ["?", "this help"],
  ]],
];

export function fillHelp() {
  for (const [title, entries] of HELP) {
    const list = element("dl");
    for (const [keys, what] of entries) {
      const term = element("dt");
      keys.split("  ").forEach((key) => term.append(element("kbd", "", key), " "));
      list.append(term, element("dd", "", what));
    }
    $("help-keys").append(element("section", "", element("h3", "", title), list));
  }
}

let hiding = null;

export function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => {
    $("toast").hidden = true;
  }, 3500);
}

export function showMessage(title, text) {
  const bold = document.createElement("b");
  bold.textContent = title;
  $("message").replaceChildren(bold, text);
  $("message").hidden = !title;
}

const THEMES = ["system", "light", "dark"];
const darkSystem = matchMedia("(prefers-color-scheme: dark)");

export function applyTheme(step = 0) {
  const chosen = THEMES[(Math.max(0, THEMES.indexOf(localStorage.getItem("theme"))) + step) % THEMES.length];
  localStorage.setItem("theme", chosen);
  const dark = chosen === "dark" || (chosen === "system" && darkSystem.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  if (step) toast(chosen === "system" ? "Theme: system" : `Theme: ${chosen}`);
}

darkSystem.addEventListener("change", () => applyTheme());
