"use strict";
// The review page: plain JavaScript, which talks to nobody but the server that it comes from.
(() => {
  const byId = (id) => document.getElementById(id);
  const ROW = 64; // pixels of a row of the list
  const SPARE = 8; // rows that are drawn beyond both ends
  const MOST_STEPS = 200; // of undo
  const COLOUR = [255, 154, 46];
  let images = []; // what the server knows of each, in its order
  let shown = []; // numbers of those that the filter lets through
  let current = null; // the image that is edited; see `load`
  let wanted = -1; // number of the image that was asked for last
  let tool = "brush", size = 8, scale = 1, stroke = null, hidden = false, saving = false;
  const drafts = new Map(); // edited images that are not saved, by number
  const rows = new Map(); // elements of the list, by number

  // --- the server

  async function ask(path, options) {
    let answer;
    try { answer = await fetch(path, options); }
    catch { throw new Error("no answer: ltcam review was ended; start it again and open its new address"); }
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  }

  function unpacked(bytes, count) {
    const mask = new Uint8Array(count);
    for (let i = 0; i < count; i++) mask[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
    return mask;
  }

  function packed(mask) {
    const bytes = new Uint8Array(Math.ceil(mask.length / 8));
    for (let i = 0; i < mask.length; i++) if (mask[i]) bytes[i >> 3] |= 128 >> (i & 7);
    return bytes;
  }

  const ahead = new Map(); // loads that were begun before they are needed

  async function load(number) {
    const [photo, bits] = await Promise.all([
      ask(`photo/${number}`).then((answer) => answer.blob()),
      ask(`mask/${number}`).then((answer) => answer.arrayBuffer()),
    ]);
    const url = URL.createObjectURL(photo), picture = new Image();
    picture.src = url;
    await picture.decode();
    const width = picture.naturalWidth, height = picture.naturalHeight, bytes = new Uint8Array(bits);
    if (bytes.length !== Math.ceil(width * height / 8)) {
      throw new Error(`${images[number].name}: image and mask differ in size; predict the image anew`);
    }
    const { label, predicted } = images[number];
    const mask = unpacked(bytes, width * height);
    const given = label ?? predicted;
    return { number, url, width, height, mask, loaded: mask.slice(), given, label: given, undo: [], redo: [] };
  }

  function loading(number) {
    if (!ahead.has(number)) {
      ahead.set(number, load(number));
      ahead.get(number).catch(() => ahead.delete(number)); // it may be asked for again
    }
    return ahead.get(number);
  }

  function release(number) {
    const begun = ahead.get(number);
    ahead.delete(number);
    if (begun) begun.then((image) => URL.revokeObjectURL(image.url), () => {});
  }

  // --- the list

  const isShown = {
    all: () => true,
    open: (image) => !image.decision,
    done: (image) => image.decision,
    defective: (image) => (image.label ?? image.predicted) === 1,
    good: (image) => (image.label ?? image.predicted) === 0,
  };

  function filter() {
    const chosen = isShown[byId("filter").value], text = byId("search").value.trim().toLowerCase();
    shown = [...images.keys()].filter((n) => chosen(images[n]) && images[n].name.toLowerCase().includes(text));
    byId("rows").style.height = `${shown.length * ROW}px`;
    list();
  }

  function list() {
    const top = byId("list").scrollTop, height = byId("list").clientHeight;
    const first = Math.max(0, Math.floor(top / ROW) - SPARE);
    const seen = shown.slice(first, Math.ceil((top + height) / ROW) + SPARE);
    byId("rows").replaceChildren(...seen.map((number, i) => {
      const row = rows.get(number) ?? made(number);
      row.style.top = `${(first + i) * ROW}px`;
      return row;
    }));
  }

  function made(number) {
    const row = document.createElement("button");
    row.type = "button";
    row.className = "item";
    row.tabIndex = -1;
    row.dataset.number = number;
    row.append(document.createElement("img"), document.createElement("b"), document.createElement("span"));
    row.querySelector("img").alt = "";
    row.querySelector("b").textContent = row.title = images[number].name;
    row.addEventListener("click", () => open(number));
    rows.set(number, row);
    tell(number);
    setTimeout(() => { // rows that are only scrolled past ask for nothing
      if (row.isConnected) row.querySelector("img").src = `thumbnail/${number}`;
      else rows.delete(number);
    }, 120);
    return row;
  }

  function tell(number) {
    const image = images[number], row = rows.get(number);
    if (!row) return;
    const said = row.querySelector("span"), label = image.label ?? image.predicted;
    const probability = `${(100 * image.probability).toFixed(1)} %`;
    said.textContent = image.decision ? `✓ ${image.decision}: ${label ? "defective" : "good"}` : probability;
    if (drafts.has(number)) said.textContent += " · not saved";
    said.className = image.decision ? (label ? "bad" : "good") : "";
    row.setAttribute("aria-current", String(number === wanted));
  }

  function count() {
    const done = images.filter((image) => image.decision).length;
    byId("progress").textContent = `${done} of ${images.length} reviewed`;
    byId("bar").max = Math.max(1, images.length);
    byId("bar").value = done;
  }

  function show(number) {
    const place = shown.indexOf(number), box = byId("list");
    if (place < 0) return;
    if (place * ROW < box.scrollTop) box.scrollTop = place * ROW;
    if ((place + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (place + 1) * ROW - box.clientHeight;
    list();
  }

  // --- one image

  async function open(number) {
    const before = wanted;
    wanted = number;
    if (current && current.number !== number) keep();
    if (before >= 0) tell(before);
    if (!rows.has(number)) show(number);
    tell(number);
    show(number);
    try {
      const image = drafts.get(number) ?? await loading(number);
      if (wanted !== number) return; // another one was asked for meanwhile
      current = image;
      say("");
      draw();
    } catch (error) {
      if (wanted !== number) return;
      current = null;
      byId("picture").hidden = true;
      byId("name").textContent = images[number].name;
      byId("facts").textContent = "";
      say(error.message, true);
    }
    buttons();
    const near = [neighbour(number, 1), neighbour(number, -1)];
    for (const other of ahead.keys()) if (other !== number && !near.includes(other)) release(other);
    if (near[0] >= 0 && !drafts.has(near[0])) loading(near[0]).catch(() => {});
  }

  function keep() {
    end();
    if (isChanged()) drafts.set(current.number, current);
    else drafts.delete(current.number);
    if (drafts.has(current.number)) ahead.delete(current.number);
    tell(current.number);
  }

  const isChanged = () => Boolean(current && (current.undo.length || current.label !== current.given));

  function draw() {
    const { width, height, number, url } = current, image = images[number];
    byId("picture").hidden = false;
    byId("photo").src = url;
    byId("photo").alt = image.name;
    Object.assign(byId("mask"), { width, height });
    paintRegion(0, 0, width, height);
    byId("name").textContent = image.name;
    const regions = `${image.regions} region${image.regions === 1 ? "" : "s"}`;
    byId("facts").textContent = `${width} × ${height}, probability of a defect ${(100 * image.probability).toFixed(1)} %, ${regions} predicted`;
    fit();
  }

  function buttons() {
    for (const name of ["accept", "reject", "good", "defective", "clear", "restore"]) byId(name).disabled = !current || saving;
    byId("undo").disabled = !current?.undo.length;
    byId("redo").disabled = !current?.redo.length;
    byId("forget").disabled = saving || !(current && images[current.number].decision);
    byId("good").setAttribute("aria-checked", String(current?.label === 0));
    byId("defective").setAttribute("aria-checked", String(current?.label === 1));
    byId("brush").setAttribute("aria-pressed", String(tool === "brush"));
    byId("eraser").setAttribute("aria-pressed", String(tool === "eraser"));
    byId("mask").style.opacity = hidden ? 0 : byId("opacity").value / 100;
    byId("pixels").textContent = byId("size").value = size;
  }

  function paintRegion(left, top, width, height) {
    if (width <= 0 || height <= 0) return;
    const pixels = new ImageData(width, height), data = pixels.data;
    for (let y = 0, to = 0; y < height; y++) {
      let from = (top + y) * current.width + left;
      for (let x = 0; x < width; x++, from++, to += 4) {
        if (!current.mask[from]) continue;
        [data[to], data[to + 1], data[to + 2], data[to + 3]] = [...COLOUR, 255];
      }
    }
    byId("mask").getContext("2d").putImageData(pixels, left, top);
  }

  // --- strokes

  function begin(x, y) {
    stroke = { before: current.mask.slice(), value: tool === "brush" ? 1 : 0, x, y, left: Infinity, top: Infinity, right: 0, bottom: 0 };
    disc(x, y);
  }

  function move(x, y) {
    const far = Math.hypot(x - stroke.x, y - stroke.y), steps = Math.max(1, Math.ceil(far / Math.max(1, size / 4)));
    for (let i = 1; i <= steps; i++) disc(stroke.x + (x - stroke.x) * i / steps, stroke.y + (y - stroke.y) * i / steps);
    Object.assign(stroke, { x, y });
  }

  // Sets the pixels whose centres lie in a circle, and that below its own centre.
  function disc(x, y) {
    const { width, height, mask } = current, radius = size / 2;
    const left = Math.max(0, Math.floor(x - radius)), right = Math.min(width - 1, Math.floor(x + radius));
    const top = Math.max(0, Math.floor(y - radius)), bottom = Math.min(height - 1, Math.floor(y + radius));
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const inside = Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius;
        const below = column === Math.floor(x) && row === Math.floor(y);
        if (inside || below) mask[row * width + column] = stroke.value;
      }
    }
    if (right < left || bottom < top) return;
    stroke.left = Math.min(stroke.left, left);
    stroke.top = Math.min(stroke.top, top);
    stroke.right = Math.max(stroke.right, right + 1);
    stroke.bottom = Math.max(stroke.bottom, bottom + 1);
    paintRegion(left, top, right + 1 - left, bottom + 1 - top);
  }

  function end() {
    if (!stroke) return;
    const { before, left, top, right, bottom } = stroke;
    stroke = null;
    if (right > left && bottom > top) remember(before, left, top, right - left, bottom - top);
  }

  // Puts a change of a part of the mask on the pile of what can be undone.
  function remember(before, left, top, width, height) {
    const step = { left, top, width, height, label: current.label };
    step.before = part(before, step);
    step.after = part(current.mask, step);
    if (step.before.every((value, i) => value === step.after[i])) return buttons();
    current.undo.push(step);
    if (current.undo.length > MOST_STEPS) current.undo.shift();
    current.redo = [];
    current.label = step.relabelled = Number(current.mask.includes(1) || current.label === 1);
    buttons();
  }

  function part(mask, { left, top, width, height }) {
    const pixels = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      const start = (top + y) * current.width + left;
      pixels.set(mask.subarray(start, start + width), y * width);
    }
    return pixels;
  }

  function step(from, to, pixels, label) {
    if (!current || stroke || !current[from].length) return;
    const change = current[from].pop(), { left, top, width, height } = change;
    for (let y = 0; y < height; y++) {
      current.mask.set(change[pixels].subarray(y * width, (y + 1) * width), (top + y) * current.width + left);
    }
    current.label = change[label];
    current[to].push(change);
    paintRegion(left, top, width, height);
    buttons();
  }

  const undo = () => step("undo", "redo", "before", "label");
  const redo = () => step("redo", "undo", "after", "relabelled");

  function replaceMask(values) {
    if (!current || stroke) return;
    const before = current.mask.slice(), { width, height } = current;
    current.mask.set(values ?? new Uint8Array(width * height));
    paintRegion(0, 0, width, height);
    remember(before, 0, 0, width, height);
  }

  // --- decisions

  async function save(change) {
    if (!current || saving) return;
    end();
    const number = current.number;
    saving = true;
    buttons();
    try {
      images[number] = await (await change(number)).json();
      drafts.delete(number);
      release(number);
      current = null;
      count();
      tell(number);
      return number;
    } catch (error) {
      say(`not saved: ${error.message}`, true);
      return null;
    } finally {
      saving = false;
      buttons();
    }
  }

  async function decide(label) {
    if (!current) return;
    const body = packed(label ? current.mask : new Uint8Array(current.mask.length));
    const saved = await save((number) => ask(`${label ? "defective" : "good"}/${number}`, { method: "POST", body }));
    if (saved === null || saved === undefined) return;
    const next = nextOpen(saved);
    filter();
    await open(next >= 0 ? next : saved);
    const all = images.every((image) => image.decision) ? "; all images are reviewed" : "";
    say(`${images[saved].name}: ${images[saved].decision}, saved${all}`);
  }

  async function forget() {
    if (!current || !images[current.number].decision) return;
    const number = await save((n) => ask(`decision/${n}`, { method: "DELETE" }));
    if (number === null || number === undefined) return;
    filter();
    await open(number);
    say(`${images[number].name}: forgotten, as it was predicted`);
  }

  function relabel(label) {
    if (!current) return;
    current.label = label;
    buttons();
  }

  function nextOpen(number) {
    const order = [...shown.filter((n) => n > number), ...shown.filter((n) => n < number)];
    return order.find((n) => !images[n].decision) ?? -1;
  }

  function neighbour(number, by) {
    const place = shown.indexOf(number);
    if (place >= 0) return shown[place + by] ?? -1;
    const beside = by > 0 ? shown.filter((n) => n > number) : shown.filter((n) => n < number).reverse();
    return beside[0] ?? -1;
  }

  function go(number) {
    if (number >= 0 && number < images.length && !saving) open(number);
  }

  function say(text, fault = false) {
    byId("status").textContent = text;
    byId("status").classList.toggle("fault", fault);
  }

  // --- zoom

  function zoomTo(value, clientX, clientY) {
    if (!current) return;
    const box = byId("easel").getBoundingClientRect();
    const at = { x: clientX ?? box.left + box.width / 2, y: clientY ?? box.top + box.height / 2 };
    const before = place(at.x, at.y);
    scale = Math.min(32, Math.max(0.02, value));
    byId("picture").style.width = `${current.width * scale}px`;
    byId("picture").style.height = `${current.height * scale}px`;
    byId("picture").classList.toggle("large", scale >= 2);
    byId("zoom").textContent = `${Math.round(100 * scale)} %`;
    const now = byId("picture").getBoundingClientRect();
    byId("easel").scrollLeft += now.left + before.x * scale - at.x;
    byId("easel").scrollTop += now.top + before.y * scale - at.y;
  }

  function fit() {
    if (!current) return;
    const { clientWidth, clientHeight } = byId("easel");
    zoomTo(Math.min((clientWidth - 16) / current.width, (clientHeight - 16) / current.height, 16));
  }

  function place(clientX, clientY) {
    const box = byId("mask").getBoundingClientRect();
    return {
      x: (clientX - box.left) * current.width / (box.width || 1),
      y: (clientY - box.top) * current.height / (box.height || 1),
    };
  }

  // --- mouse, pen and finger

  const canvas = byId("mask");
  let pan = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (!current || saving || stroke || pan) return;
    event.preventDefault();
    document.activeElement?.blur?.();
    canvas.setPointerCapture(event.pointerId);
    if (event.button) { pan = event; return; }
    hidden = false;
    const { x, y } = place(event.clientX, event.clientY);
    begin(x, y);
    buttons();
  });
  canvas.addEventListener("pointermove", (event) => {
    ring(event);
    if (pan) {
      byId("easel").scrollBy(pan.clientX - event.clientX, pan.clientY - event.clientY);
      pan = event;
      return;
    }
    if (!stroke) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      const { x, y } = place(each.clientX, each.clientY);
      move(x, y);
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { pan = null; end(); });
  canvas.addEventListener("pointerleave", () => { byId("cursor").hidden = true; });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  byId("easel").addEventListener("wheel", (event) => {
    if (!current || !event.ctrlKey) return;
    event.preventDefault();
    zoomTo(scale * 1.0015 ** -event.deltaY, event.clientX, event.clientY);
  }, { passive: false });

  function ring(event) {
    const cursor = byId("cursor"), across = `${size * scale}px`;
    cursor.hidden = false;
    Object.assign(cursor.style, { left: `${event.clientX}px`, top: `${event.clientY}px`, width: across, height: across });
  }

  function resize(by) {
    size = Math.min(100, Math.max(1, by > 0 ? Math.max(size + 1, Math.round(size * 1.25)) : Math.min(size - 1, Math.round(size / 1.25))));
    byId("cursor").style.width = byId("cursor").style.height = `${size * scale}px`;
    buttons();
  }

  // --- buttons and keys

  const actions = {
    accept: () => current && decide(current.label),
    reject: () => decide(0),
    good: () => relabel(0),
    defective: () => relabel(1),
    forget,
    brush: () => { tool = "brush"; buttons(); },
    eraser: () => { tool = "eraser"; buttons(); },
    undo, redo, fit,
    clear: () => replaceMask(null),
    restore: () => current && replaceMask(current.loaded),
    larger: () => zoomTo(scale * 1.5),
    smaller: () => zoomTo(scale / 1.5),
  };
  const next = () => go(neighbour(wanted, 1)), previous = () => go(neighbour(wanted, -1));
  const keys = {
    a: actions.accept, r: actions.reject, u: forget, b: actions.brush, e: actions.eraser,
    l: () => current && relabel(1 - current.label), z: undo, Z: redo, y: redo, c: actions.clear,
    h: () => { hidden = !hidden; buttons(); }, n: () => go(nextOpen(wanted)),
    "[": () => resize(-1), "]": () => resize(1), "+": actions.larger, "=": actions.larger,
    "-": actions.smaller, 0: fit, ArrowRight: next, ArrowDown: next, ArrowLeft: previous, ArrowUp: previous,
  };
  for (const [id, act] of Object.entries(actions)) byId(id).addEventListener("click", act);
  byId("size").addEventListener("input", (event) => { size = Number(event.target.value); buttons(); });
  byId("opacity").addEventListener("input", () => { hidden = false; buttons(); });
  byId("filter").addEventListener("change", filter);
  byId("search").addEventListener("input", filter);
  byId("list").addEventListener("scroll", list);
  window.addEventListener("resize", () => { list(); fit(); });
  window.addEventListener("beforeunload", (event) => { if (drafts.size || isChanged()) event.preventDefault(); });
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest?.("input, select");
    if (field && (field.type !== "range" || event.key.startsWith("Arrow"))) {
      if (event.key === "Escape") field.blur();
      return;
    }
    const control = event.ctrlKey || event.metaKey;
    if (event.altKey || (control && !"zZy".includes(event.key))) return;
    const act = keys[event.key];
    if (!act || (event.repeat && "aru".includes(event.key))) return; // a key that is held decides once
    event.preventDefault();
    act();
  });

  (async () => {
    try {
      images = await (await ask("images")).json();
      count();
      filter();
      buttons();
      const first = images.findIndex((image) => !image.decision);
      if (images.length) await open(Math.max(0, first));
    } catch (error) { say(error.message, true); }
  })();
})();
