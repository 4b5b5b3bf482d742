"use strict";
(() => {
  const { cells, images, views: VIEWS } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const LAST = VIEWS.length - 1;
  const state = { cell: 0, filter: "all", view: LAST, order: byId("order").options[0].value, search: "" };

  // --- light and dark

  const themes = ["", "light", "dark"];
  const names = { "": "system setting", light: "light", dark: "dark" };
  const stored = () => { try { return localStorage.getItem("ltcam-theme") || ""; } catch { return ""; } };
  function paint(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    byId("theme").textContent = { "": "◐", light: "○", dark: "●" }[theme];
    byId("theme").setAttribute("aria-label", `Colours: ${names[theme]}`);
    try { localStorage.setItem("ltcam-theme", theme); } catch { /* a page from disk may not */ }
  }
  paint(themes.includes(stored()) ? stored() : "");
  byId("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "";
    paint(themes[(themes.indexOf(now) + 1) % themes.length]);
  });

  // --- the table, sorted by a click on a heading

  document.querySelectorAll("#table thead th").forEach((head, column) => {
    const body = byId("table").tBodies[0];
    head.querySelector("button").addEventListener("click", () => {
      const number = head.classList.contains("number");
      const falling = head.getAttribute("aria-sort") === "descending" ||
        (!head.hasAttribute("aria-sort") && !number);
      const sign = falling ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // empty ones stay last
        return sign * (number ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true }));
      });
      byId("table").querySelectorAll("[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "ascending" : "descending");
      body.append(...rows);
    });
  });

  // --- results of an image in the selected cell

  const of = (number) => cells[state.cell].images[number];
  const isMissed = (result) => result.label === 1 && (!result.predicted || result.tp === 0);
  const isFalseAlarm = (result) => result.label === 0 && result.predicted === 1;
  const FILTERS = {
    all: () => true,
    defective: (result) => result.label === 1,
    missed: isMissed,
    false: isFalseAlarm,
    called: (result) => result.predicted === 1,
    passed: (result) => result.predicted === 0,
    rejected: (result) => result.verdict === "reject",
  };
  const passes = (filter, number) => (filter.startsWith("kind:")
    ? (images[number].kinds || []).includes(filter.slice(5)) : FILTERS[filter](of(number)));
  const MEANINGS = {
    "kind": "What kind of defect the classifier sees.",
    "p(defect)": "The classifier's probability of a defect.",
    touched: "Defect regions that the mask touches.",
    false: "Regions of the mask that touch no defect.",
    evidence: "How much of what the classifier saw lies in the mask, and how small that is.",
    area: "The mask's share of the image.",
    found: "Regions of the mask.",
    "mm²": "The mask's area.",
    verdict: "By the limits of predict.reject, and which of them were exceeded.",
  };
  const given = (value) => value !== null && value !== undefined;
  const percent = (value) => (value === null ? "–" : value.toFixed(1));

  function tag(result) {
    if (result.label === null) return [`called ${result.predicted ? "defective" : "good"}`, result.predicted === 1];
    if (result.label && !result.predicted) return ["predicted good", true];
    if (isMissed(result)) return ["missed", true];
    if (isFalseAlarm(result)) return ["false alarm", true];
    return [result.label ? "defective" : "good", false];
  }

  function scores(result) {
    const probability = result.probability < 0.001 || result.probability > 0.999
      ? (result.probability < 0.5 ? "< 0.001" : "> 0.999") : result.probability.toFixed(3);
    const rows = given(result.area)  // no true mask is known
      ? [["p(defect)", probability], ["evidence", given(result.evidence) && result.evidence.toFixed(2)],
         ["area", `${result.area.toFixed(1)} %`], ["found", result.found]]
      : result.label
      ? [["IoU", percent(result.iou)], ["precision", percent(result.precision)],
         ["recall", percent(result.recall)], ["p(defect)", probability],
         ["touched", given(result.regions) ? `${result.touched} of ${result.regions}` : "–"],
         ["false", result.false_regions ?? "–"]]
      : [["p(defect)", probability], ["false", result.false_regions]];
    rows.push(["kind", result.predicted_kind || null]);
    rows.push(["mm²", given(result.area_mm2) && Number(result.area_mm2.toPrecision(4))]);
    rows.push(["verdict", result.rule ? `${result.verdict}: ${result.rule}` : result.verdict]);
    const list = document.createDocumentFragment();
    for (const [name, value] of rows.filter(([, value]) => given(value) && value !== false)) {
      const pair = document.createElement("div");
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = name;
      dt.title = MEANINGS[name] || "";
      dd.textContent = value;
      pair.append(dt, dd);
      list.append(pair);
    }
    return list;
  }

  // --- a card: the picture and its slider

  function makeCard(number) {
    const image = images[number];
    const card = byId("card").content.firstElementChild.cloneNode(true);
    const part = (selector) => card.querySelector(selector);
    const picture = part(".picture"), blend = part(".blend");
    card.dataset.number = number;
    card.dataset.name = image.name;
    part("h3").textContent = image.name;
    picture.style.aspectRatio = `${image.width} / ${image.height}`;
    part(".photo").src = image.photo;
    part(".lines").setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
    part(".lines").setAttribute("preserveAspectRatio", "none");
    card.querySelectorAll("path.truth").forEach((path) => path.setAttribute("d", image.truth || ""));
    part(".zoom").setAttribute("aria-label", `Enlarge ${image.name}`);
    blend.setAttribute("aria-label", `From image to ${VIEWS[LAST]}: ${image.name}`);

    card.update = () => {
      const result = of(number), [text, bad] = tag(result);
      if (result.heat) part(".heat").src = result.heat;
      card.querySelectorAll("path.mask").forEach((path) => path.setAttribute("d", result.mask));
      part(".tag").textContent = text;
      part(".tag").classList.toggle("bad", bad);
      part(".photo").alt = `${image.name}: ${text}, probability of a defect ` +
        `${result.probability.toFixed(3)}${given(result.iou) && result.label ? `, IoU ${percent(result.iou)} %` : ""}`;
      part(".scores").replaceChildren(scores(result));
    };
    card.show = (value) => {
      const at = (name) => VIEWS.indexOf(name);
      const near = (name) => (at(name) < 0 ? 0 : Math.max(0, 1 - Math.abs(value - at(name))));
      blend.value = value;
      const opacity = { ".heat": 0.65 * near("heatmap"),
        "path.mask:not(.halo)": Math.max(near("mask"), 0.9 * (value > at("mask"))), "path.truth:not(.halo)": near("truth") };
      opacity["path.mask.halo"] = 0.4 * opacity["path.mask:not(.halo)"];
      opacity["path.truth.halo"] = 0.4 * near("truth");
      for (const [selector, share] of Object.entries(opacity)) part(selector).style.opacity = share.toFixed(3);
      const here = Math.round(value);
      blend.setAttribute("aria-valuetext", VIEWS[here]);
      card.querySelectorAll(".stops button").forEach((stop, n) => stop.classList.toggle("here", n === here));
    };
    blend.addEventListener("input", () => card.show(Number(blend.value)));
    card.querySelectorAll(".stops button").forEach((stop, n) => stop.addEventListener("click", () => card.show(n)));
    part(".zoom").addEventListener("click", () => enlarge(number));

    // Along the picture, as with the slider below it.
    const slide = (event) => {
      const box = picture.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      card.show(Math.min(LAST, Math.max(0, LAST * share)));
    };
    picture.addEventListener("pointerdown", (event) => {
      if (event.button || event.target.closest("button")) return;
      picture.setPointerCapture(event.pointerId);
      slide(event);
      blend.focus({ preventScroll: true });
      event.preventDefault();
    });
    picture.addEventListener("pointermove", (event) => {
      if (picture.hasPointerCapture(event.pointerId)) slide(event);
    });
    card.update();
    card.show(state.view);
    return card;
  }

  // --- the gallery

  const cards = new Map();
  let listed = [];

  function card(number) {
    if (!cards.has(number)) cards.set(number, makeCard(number));
    return cards.get(number);
  }

  // Defective images by their IoU, then false alarms, then good ones by their probability.
  function badness(number) {
    const result = of(number);
    if (result.label) return [0, result.predicted ? result.iou ?? 0 : -1];
    return [isFalseAlarm(result) ? 1 : 2, -result.probability];
  }
  const doubt = (number) => Math.abs(of(number).probability - cells[state.cell].threshold);
  const ORDERS = {
    worst: (a, b) => { const [x, y] = [badness(a), badness(b)]; return x[0] - y[0] || x[1] - y[1]; },
    best: (a, b) => { const [x, y] = [badness(a), badness(b)]; return x[0] - y[0] || y[1] - x[1]; },
    unsure: (a, b) => doubt(a) - doubt(b),
    probability: (a, b) => of(b).probability - of(a).probability,
    name: () => 0,
  };
  const byName = (a, b) => images[a].name.localeCompare(images[b].name, undefined, { numeric: true });

  function refresh() {
    const all = Object.keys(cells[state.cell].images).map(Number);
    document.querySelectorAll("[data-count]").forEach((count) => {
      count.textContent = all.filter((n) => passes(count.dataset.count, n)).length;
    });
    const words = state.search.trim().toLowerCase();
    listed = all
      .filter((n) => passes(state.filter, n) && images[n].name.toLowerCase().includes(words))
      .sort((a, b) => ORDERS[state.order](a, b) || byName(a, b));
    byId("gallery").replaceChildren(...listed.map(card));
    byId("nothing").hidden = listed.length > 0;
    byId("count").textContent = `${listed.length} of ${all.length} images`;
  }

  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("cells").addEventListener("change", (event) => {
    state.cell = Number(event.target.value);
    cards.forEach((card, number) => { if (of(number)) card.update(); });
    refresh();
  });
  byId("filters").addEventListener("change", (event) => { state.filter = event.target.value; refresh(); });
  byId("views").addEventListener("change", (event) => {
    state.view = Number(event.target.value);
    cards.forEach((card) => card.show(state.view));
  });
  byId("order").addEventListener("change", (event) => { state.order = event.target.value; refresh(); });
  byId("search").addEventListener("input", (event) => { state.search = event.target.value; refresh(); });

  const shape = images.map((image) => image.width / image.height).sort((a, b) => a - b)[images.length >> 1];
  byId("gallery").style.setProperty("--card", shape < 0.7 ? "11.5rem" : shape > 1.6 ? "22rem" : "16rem");
  byId("cells").hidden = cells.length < 2;

  // --- one image, large

  const large = byId("large");
  function enlarge(number) {
    const picture = makeCard(number), image = images[number];
    picture.show(Number(card(number).querySelector(".blend").value));
    const ratio = image.width / image.height;
    picture.classList.toggle("tall", ratio < 1.1);
    picture.querySelector(".picture").style.width =
      `min(84vw, 66rem, ${((ratio < 1.1 ? 84 : 66) * ratio).toFixed(2)}vh)`;
    byId("stage").replaceChildren(picture);
    const place = listed.indexOf(number);
    byId("place").textContent = `${place + 1} of ${listed.length}`;
    byId("previous").disabled = place <= 0;
    byId("next").disabled = place < 0 || place >= listed.length - 1;
    byId("previous").onclick = () => enlarge(listed[place - 1]);
    byId("next").onclick = () => enlarge(listed[place + 1]);
    if (!large.open) large.showModal();
    picture.querySelector(".blend").focus({ preventScroll: true });
  }
  byId("close").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("keydown", (event) => {
    const step = { ArrowUp: "previous", ArrowDown: "next", PageUp: "previous", PageDown: "next" }[event.key];
    if (!step) return;
    event.preventDefault();
    if (!byId(step).disabled) byId(step).click();
  });

  // On paper, all details are open.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));

  refresh();
})();
