// The named classes of the points file: which one the next instance is of, their keys 1 to 9, their colours.

import { $, element, toast } from "./panels.js";

export class Classes {
  // client, and on: {chosen(key of the class), changed()}
  constructor(client, on) {
    this.client = client;
    this.on = on;
    this.list = []; // {id: number, or a name; name}
    this.current = null;
    this.version = -1;
    $("class-list").addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.choose(Number(row.dataset.place));
    });
    $("class-list").addEventListener("dblclick", (event) => {
      const row = event.target.closest(".row");
      if (row) this.edit(this.list[Number(row.dataset.place)]);
    });
    $("class-new").addEventListener("click", () => this.edit(null));
  }

  // version: of the points file when it had these; older news is none.
  take(list, version) {
    if (version < this.version) return;
    this.version = version;
    if (JSON.stringify(list) === JSON.stringify(this.list)) return;
    this.list = list;
    if (!list.some((one) => one.id === this.current)) this.current = null;
    this.fill();
    this.on.changed();
  }

  // The nth class was asked for.
  choose(place) {
    const one = this.list[place];
    if (!one) {
      toast(this.list.length ? `There are ${this.list.length} classes` : "No classes yet: + Add class");
      return;
    }
    this.on.chosen(one.id);
  }

  set(id) {
    this.current = id;
    this.fill();
  }

  name(id) {
    return this.list.find((one) => one.id === id)?.name ?? (id === null ? "" : `${id}`);
  }

  colour(id) {
    const place = this.list.findIndex((one) => one.id === id);
    return place < 0 ? null : `hsl(${(place * 137.508 + 205) % 360} 92% 62%)`;
  }

  // The class of that name, made where there is none.
  async named(name, id = null) {
    const known = this.list.find((one) => one.name === name);
    if (known) return known.id;
    const answer = await this.client.post("classes", { name, class: id });
    this.take(answer.classes, answer.version);
    return answer.class;
  }

  fill() {
    const rows = this.list.map(({ id, name }, place) => {
      const swatch = element("span", "swatch");
      swatch.style.setProperty("--colour", this.colour(id));
      const key = element("kbd", "", place < 9 ? `${place + 1}` : "");
      if (place >= 9) key.hidden = true;
      const row = element("button", "row class", swatch, element("span", "grow", element("bdi", "", name)), key);
      row.dataset.place = place;
      row.title = `${name}: the next instances and the current one; double-click to rename`;
      row.setAttribute("aria-pressed", id === this.current);
      return row;
    });
    $("class-list").replaceChildren(...rows);
  }

  edit(one) {
    const field = element("input", "name");
    field.maxLength = 100;
    field.value = one?.name ?? "";
    field.placeholder = "Class name";
    field.setAttribute("aria-label", "Class name");
    let over = false;
    const end = async (keep) => {
      if (over) return;
      over = true;
      const name = field.value.trim();
      field.remove();
      this.fill();
      $("canvas").focus({ preventScroll: true });
      if (!keep || !name || name === one?.name) return;
      try {
        if (one && typeof one.id !== "number") throw new Error("this class is its name; change it in the file");
        const id = await this.named(name, one?.id ?? null);
        if (!one) this.on.chosen(id);
      } catch (problem) {
        toast(`Not done: ${problem.message}`);
      }
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") end(true);
      else if (event.key === "Escape") end(false);
    });
    field.addEventListener("blur", () => end(true));
    $("class-edit").replaceChildren(field);
    field.focus();
  }
}
