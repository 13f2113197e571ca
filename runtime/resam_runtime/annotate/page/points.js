// The points of one scene as this window shows them, ahead of the server by what is not yet acknowledged.
//
// An instance is {handle, raw, points, labels, box, category}, null where it has no box or class; its handle {id} outlives it, so that undo and queued operations find an
// instance whose id the server has yet to give, or that was removed and came back. Undo needs no record of
// states: performing an operation yields the one that takes it back.

export class ScenePoints {
  constructor(name) {
    this.name = name;
    this.handles = new Map();
    this.instances = [];
    this.done = false;
    this.rejected = []; // boxes of what the engine proposed and somebody said is nothing
    this.version = -1;
    this.edits = 0;
    this.undo = [];
    this.redo = [];
  }

  // Takes the server's word for it.
  replace(answer) {
    this.version = answer.version;
    this.done = answer.done;
    this.rejected = answer.rejected;
    this.instances = answer.instances.map((raw) => fresh(this.handle(raw.id), raw));
  }

  handle(id) {
    if (!this.handles.has(id)) this.handles.set(id, { id });
    return this.handles.get(id);
  }

  acknowledge(handle, id) {
    if (handle.id !== null) return;
    handle.id = id;
    this.handles.set(id, handle);
  }

  find(handle) {
    return this.instances.find((instance) => instance.handle === handle);
  }

  // Applies an operation here and returns the one that undoes it; null where it makes no sense any more.
  // operation: {act, handle, point, label, at, to, box, category, value, place, back, done}
  apply(operation) {
    const { handle, point, label } = operation;
    const instance = handle && this.find(handle);
    const place = this.instances.indexOf(instance);
    const at = instance && point ? indexOfPoint(instance, point, label) : -1;
    const inverse = this.change(operation, instance, place, at);
    if (inverse) this.edits += 1;
    return inverse && { handle, ...inverse };
  }

  change(operation, instance, place, at) {
    const { act, handle, point, label, at: wantedAt, to, box, category, value, place: wantedPlace, back, done } = operation;
    if (["add", "box", "accept"].includes(act) && !instance) return this.begin(operation);
    switch (act) {
      case "add":
        if (at >= 0) return null;
        instance.points.splice(wantedAt ?? instance.points.length, 0, point);
        instance.labels.splice(wantedAt ?? instance.labels.length, 0, label);
        return { act: "remove", point, label };
      case "remove": {
        if (at < 0) return null;
        if (instance.points.length === 1 && !instance.box) return this.take(instance, place);
        instance.points.splice(at, 1);
        instance.labels.splice(at, 1);
        return { act: "add", point, label, at };
      }
      case "move":
        if (at < 0) return null;
        instance.points[at] = to;
        return { act: "move", point: to, label, to: point };
      case "box": {
        if (!box && !instance.points.length) return this.take(instance, place);
        const before = instance.box;
        instance.box = box;
        return { act: "box", box: before };
      }
      case "class": {
        if (!instance) return null;
        const before = instance.category;
        instance.category = category;
        return { act: "class", category: before };
      }
      case "reject": {
        const found = this.rejected.findIndex((other) => other.join() === box.join());
        if ((found >= 0) !== Boolean(back)) return null;
        if (back) this.rejected.splice(found, 1);
        else this.rejected.push(box);
        return { act: "reject", box, back: !back };
      }
      case "delete":
        return instance ? this.take(instance, place) : null;
      case "restore":
        if (instance) return null;
        this.instances.splice(wantedPlace, 0, fresh(handle, value));
        return { act: "delete" };
      case "done": {
        const before = this.done;
        this.done = done;
        return { act: "done", done: before };
      }
      default:
        throw new Error(act);
    }
  }

  begin({ act, handle, point, label, box, category }) {
    if (handle.id !== null) return null;
    const marks = { points: act === "box" ? [] : [point], labels: act === "box" ? [] : [label], box, category };
    this.instances.push(fresh(handle, marks));
    return act === "add" ? { act: "remove", point, label } : { act: "delete" };
  }

  take(instance, place) {
    this.instances.splice(place, 1);
    const value = { ...instance.raw, points: [...instance.points], labels: [...instance.labels] };
    for (const name of ["box", "category"]) {
      if (instance[name] === null) delete value[name];
      else value[name] = instance[name];
    }
    return { act: "restore", value, place };
  }
}

function fresh(handle, raw) {
  const { points = [], labels = [], box = null, category = null } = raw;
  return { handle, raw, points: points.map((point) => [...point]), labels: [...labels], box, category };
}

function indexOfPoint({ points, labels }, [x, y], label) {
  return points.findIndex((point, i) => point[0] === x && point[1] === y && labels[i] === label);
}

// The operation as the server takes it, with ids as they are known now.
export function message({ act, handle, point, label, at, to, box, category, value, place, back, done }) {
  switch (act) {
    case "add":
      return { do: "add", instance: handle.id, point, label, at, category };
    case "remove":
      return { do: "remove", instance: handle.id, point, label };
    case "move":
      return { do: "move", instance: handle.id, point, label, to };
    case "box":
      return { do: "box", instance: handle.id, box, category };
    case "class":
      return { do: "class", instance: handle.id, category };
    case "accept":
      return { do: "accept", instance: null, point, label, box, category };
    case "reject":
      return { do: "reject", box, back };
    case "delete":
      return { do: "delete", instance: handle.id };
    case "restore":
      return { do: "restore", value: { ...value, id: handle.id }, place };
    default:
      return { do: "done", done };
  }
}
