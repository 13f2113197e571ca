// The points of one scene as this window shows them, ahead of the server by what is not yet acknowledged.
//
// An instance is {handle, raw, points, labels}; its handle {id} outlives it, so that undo and queued operations find an
// instance whose id the server has yet to give, or that was removed and came back. Undo needs no record of
// states: performing an operation yields the one that takes it back.

export class ScenePoints {
  constructor(name) {
    this.name = name;
    this.handles = new Map();
    this.instances = [];
    this.done = false;
    this.version = -1;
    this.edits = 0;
    this.undo = [];
    this.redo = [];
  }

  // Takes the server's word for it.
  replace(answer) {
    this.version = answer.version;
    this.done = answer.done;
    this.instances = answer.instances.map((raw) => ({
      handle: this.handle(raw.id),
      raw,
      points: raw.points.map((point) => [...point]),
      labels: [...raw.labels],
    }));
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
  // operation: {act, handle, point, label, at, to, value, place, done}
  apply(operation) {
    const { handle, point, label } = operation;
    const instance = handle && this.find(handle);
    const place = this.instances.indexOf(instance);
    const at = instance && point ? indexOfPoint(instance, point, label) : -1;
    const inverse = this.change(operation, instance, place, at);
    if (inverse) this.edits += 1;
    return inverse && { handle, ...inverse };
  }

  change({ act, handle, point, label, at: wantedAt, to, value, place: wantedPlace, done }, instance, place, at) {
    switch (act) {
      case "add":
        if (at >= 0) return null;
        if (!instance) {
          if (handle.id !== null) return null;
          this.instances.push({ handle, raw: {}, points: [point], labels: [label] });
        } else {
          const where = wantedAt ?? instance.points.length;
          instance.points.splice(where, 0, point);
          instance.labels.splice(where, 0, label);
        }
        return { act: "remove", point, label };
      case "remove": {
        if (at < 0) return null;
        if (instance.points.length === 1) return this.take(instance, place);
        instance.points.splice(at, 1);
        instance.labels.splice(at, 1);
        return { act: "add", point, label, at };
      }
      case "move":
        if (at < 0) return null;
        instance.points[at] = to;
        return { act: "move", point: to, label, to: point };
      case "delete":
        return instance ? this.take(instance, place) : null;
      case "restore":
        if (instance) return null;
        this.instances.splice(wantedPlace, 0, { handle, raw: value, points: [...value.points], labels: [...value.labels] });
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

  take(instance, place) {
    this.instances.splice(place, 1);
    const value = { ...instance.raw, points: [...instance.points], labels: [...instance.labels] };
    return { act: "restore", value, place };
  }
}

function indexOfPoint({ points, labels }, [x, y], label) {
  return points.findIndex((point, i) => point[0] === x && point[1] === y && labels[i] === label);
}

// The operation as the server takes it, with ids as they are known now.
export function message({ act, handle, point, label, at, to, value, place, done }) {
  switch (act) {
    case "add":
      return { do: "add", instance: handle.id, point, label, at };
    case "remove":
      return { do: "remove", instance: handle.id, point, label };
    case "move":
      return { do: "move", instance: handle.id, point, label, to };
    case "delete":
      return { do: "delete", instance: handle.id };
    case "restore":
      return { do: "restore", value: { ...value, id: handle.id }, place };
    default:
      return { do: "done", done };
  }
}
