"use strict";
/* What the page does beside showing: keys, ticks, columns that are remembered, curves, a graph, a log that goes on. */
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg";
  const svg = (name, attributes = {}, parent = null) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  };
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const remembered = {
    get(key) { try { return localStorage.getItem(`reprokit.${key}`); } catch { return null; } },
    set(key, value) { try { value === null ? localStorage.removeItem(`reprokit.${key}`) : localStorage.setItem(`reprokit.${key}`, value); } catch { /* not kept */ } },
  };

  const kept = (url) => {  // of a page that was written into a file: what it would ask for stands in it
    const block = all("script[data-url]").find((each) => each.dataset.url === url);
    return block ? JSON.parse(block.textContent) : null;
  };
  const ask = async (url) => kept(url) ?? (await (await fetch(url)).json());

  // ------------------------------------------------------------------------------------------------ runs
  const ticked = new Set();
  let place = -1;

  function showTicks() {
    const button = one("#compare");
    if (!button) return;
    for (const box of all("input[name=run]")) box.checked = ticked.has(box.value);
    const count = ticked.size;
    button.disabled = count < 2 || count > 10;
    one("#ticked").textContent = count === 0 ? "Tick two to ten runs." : `${count} ticked${count > 10 ? ": ten at most" : ""}`;
  }

  function rows() { return all("table.runs tr[data-run], table.runs tr[data-open]"); }

  function go(step) {
    const found = rows();
    if (!found.length) return;
    found[place]?.classList.remove("at");
    place = Math.max(0, Math.min(found.length - 1, place + step));
    found[place].classList.add("at");
    found[place].scrollIntoView({ block: "nearest" });
  }

  async function sparks() {
    const choice = one("#spark"), cells = all("tr[data-run] .spark");
    if (!choice || !choice.value || !cells.length) return;
    const query = new URLSearchParams({ name: choice.value });
    for (const row of all("tr[data-run]")) query.append("run", row.dataset.run);
    let told;
    try { told = kept("sparks") ?? (await ask(`/runs/sparks.json?${query}`)); } catch { return; }
    for (const row of all("tr[data-run]")) {
      const cell = one(".spark", row), values = told.runs[row.dataset.run];
      cell.replaceChildren();
      if (!values) continue;
      const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
      const points = values.map((y, i) => `${(2 + (86 * i) / (values.length - 1)).toFixed(1)},${(21 - (18 * (y - low)) / span).toFixed(1)}`);
      const drawn = svg("svg", { viewBox: "0 0 90 24", role: "img", "aria-label": `${told.name}: from ${values[0].toPrecision(4)} to ${values[values.length - 1].toPrecision(4)}, lowest ${low.toPrecision(4)}, highest ${high.toPrecision(4)}` }, cell);
      svg("title", {}, drawn).textContent = drawn.getAttribute("aria-label");
      svg("polyline", { points: points.join(" ") }, drawn);
    }
  }

  function chosenColumns() { return all("input.column").filter((box) => box.checked).map((box) => box.value).join(","); }

  function table() {
    const shown = one("#table");
    if (!shown) return;
    const count = one("#count"), form = one("#view");
    if (count) count.textContent = shown.dataset.total;
    if (form) { form.elements.sort.value = shown.dataset.sort; form.elements.baseline.value = shown.dataset.baseline; }
    const choice = one("#spark"), kept = remembered.get("spark");
    if (choice && kept && all("option", choice).some((o) => o.value === kept)) choice.value = kept;
    showTicks();
    sparks();
  }

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("input[name=run]")) {
      box.checked ? ticked.add(box.value) : ticked.delete(box.value);
      showTicks();
    } else if (box.matches("#spark")) {
      remembered.set("spark", box.value);
      sparks();
    } else if (box.matches("input.column")) {
      const field = one("#columns");
      field.disabled = false;
      field.value = chosenColumns();
      remembered.set("columns", field.value);
    }
  }, true);
  document.addEventListener("submit", (event) => {
    if (!event.target.matches(".comparing")) return;
    event.preventDefault();
    const query = new URLSearchParams();
    for (const run of [...ticked].slice(0, 10)) query.append("run", run);
    location.href = `/compare?${query}`;
  });
  document.addEventListener("htmx:configRequest", (event) => {  // an address says nothing of what nobody chose
    const told = event.detail.parameters;
    for (const name of ["where", "group", "sort", "baseline"]) if (told.get?.(name) === "" || told[name] === "") told.delete ? told.delete(name) : delete told[name];
  });
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.id === "table" || event.detail.elt?.id === "table") { place = -1; table(); }
    if (event.target.id === "now" || event.detail.elt?.id === "now") moved();
  });

  // ------------------------------------------------------------------------------------------------ keys
  let before = "";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const key = event.key;
    if (key === "/") { event.preventDefault(); one("#find").focus(); }
    else if (key === "j") go(1);
    else if (key === "k") go(-1);
    else if (key === "Enter" && place >= 0 && !event.target.closest("a, button, summary")) one("th a", rows()[place])?.click();
    else if (key === "x" && place >= 0) one("input[name=run]", rows()[place])?.click();
    else if (key === "c") one("#compare:not(:disabled)")?.click();
    else if (key === "?") toggleKeys();
    else if (before === "g" && key === "r") location.href = "/runs";
    else if (before === "g" && key === "p") location.href = "/packages";
    before = key;
  });
  function toggleKeys() {
    const help = one("#keys");
    help.hidden = !help.hidden;
    one("#keys-button").setAttribute("aria-expanded", String(!help.hidden));
  }
  one("#keys-button")?.addEventListener("click", toggleKeys);

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = one("code", button.parentElement).textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch { getSelection().selectAllChildren(one("code", button.parentElement)); }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // ---------------------------------------------------------------------------------------------- curves
  function smoothed(values, weight) {
    if (!weight) return values;
    let last = 0, norm = 0;
    return values.map((value) => {
      last = last * weight + (1 - weight) * value;
      norm = norm * weight + (1 - weight);
      return last / norm;
    });
  }

  function joined(lines, axis, began, weight) {
    const shift = (line, x) => (axis === "time" ? x - (began[line.run] ?? line.x.time[0]) : x);
    const every = lines.map((line) => {
      const pairs = line.x[axis].map((x, i) => [shift(line, x), i]).sort((a, b) => a[0] - b[0]);
      const ys = smoothed(pairs.map(([, i]) => line.y[i]), weight);
      return [pairs.map(([x]) => x), ys];
    });
    return every.length === 1 ? every[0] : uPlot.join(every);
  }

  function draw(box, chart, state, began) {
    box.replaceChildren();
    const axis = chart.axes.includes(state.axis) ? state.axis : chart.axes[0];
    if (!axis) return null;
    const data = joined(chart.lines, axis, began, state.smooth);
    const positive = chart.lines.every((line) => line.y.every((y) => y > 0));
    const paint = { stroke: color("--soft"), grid: { stroke: color("--rule"), width: 1 }, ticks: { stroke: color("--rule"), width: 1 }, font: "12px system-ui, sans-serif" };
    const options = {
      width: Math.max(260, box.clientWidth), height: 220,
      scales: { x: { time: false }, y: { distr: state.log && positive ? 3 : 1 } },
      axes: [{ ...paint, size: 34 }, { ...paint, size: 58 }],
      cursor: { sync: { key: "curves" }, drag: { x: true, y: false } },
      series: [{ label: axis === "time" ? "seconds" : axis }, ...chart.lines.map((line, i) => ({
        label: chart.lines.length === 1 ? chart.name : line.label, stroke: color(`--c${i % 10}`), width: 1.6, spanGaps: true,
        dash: i % 2 ? [6, 4] : undefined, points: { show: line.y.length < 2 },
      }))],
    };
    return new uPlot(options, data, box);
  }

  async function curves(host) {
    const state = { axis: one("[data-axis]", host).value, log: false, smooth: 0 };
    const plots = one("[data-plots]", host), said = one("[data-state]", host);
    let told = null, drawn = [];
    const again = () => {
      for (const each of drawn) each?.destroy();
      drawn = [];
      const shown = all("figure", plots);
      told.charts.forEach((chart, i) => { drawn.push(draw(one(".chart", shown[i]), chart, state, told.began)); });
    };
    const read = async () => {
      try { told = await ask(host.dataset.charts); } catch { said.textContent = "The curves could not be read."; return; }
      const names = told.charts.map((chart) => chart.name).join("\n");
      if (plots.dataset.names !== names) {
        plots.dataset.names = names;
        plots.replaceChildren(...told.charts.map((chart) => {
          const figure = document.createElement("figure"), caption = document.createElement("figcaption"), box = document.createElement("div");
          const name = document.createElement("strong"), ends = document.createElement("span");
          name.textContent = chart.name;
          const ys = chart.lines.flatMap((line) => line.y);
          ends.textContent = ys.length ? `lowest ${Math.min(...ys).toPrecision(4)}, highest ${Math.max(...ys).toPrecision(4)}${chart.lost ? `, ${chart.lost} not finite` : ""}` : "no finite value";
          caption.append(name, ends);
          box.className = "chart";
          box.setAttribute("role", "img");
          box.setAttribute("aria-label", `${chart.name}: ${chart.lines.map((line) => `${line.label} from ${line.y[0]?.toPrecision(4)} to ${line.y[line.y.length - 1]?.toPrecision(4)}`).join("; ")}`);
          figure.append(caption, box);
          return figure;
        }));
      }
      const more = told.more ? [`${told.more} more are not drawn.`] : [];
      const none = told.charts.length || told.unread.length ? [] : ["No metric was logged."];
      said.textContent = [...none, ...more, ...told.unread].join(" ");
      again();
      host.dataset.drawn = String(told.charts.length);
    };
    one("[data-axis]", host).addEventListener("change", (e) => { state.axis = e.target.value; again(); });
    one("[data-log-scale]", host).addEventListener("change", (e) => { state.log = e.target.checked; again(); });
    one("[data-smooth]", host).addEventListener("input", (e) => { state.smooth = Number(e.target.value); again(); });
    let wide = host.clientWidth, waiting = 0;
    new ResizeObserver(() => {
      if (!told || host.clientWidth === wide) return;
      wide = host.clientWidth;
      clearTimeout(waiting);
      waiting = setTimeout(again, 120);
    }).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => told && again());
    host.reread = read;
    await read();
  }

  // --------------------------------------------------------------------------------- a run that goes on
  let saved = null;
  function moved() {
    const now = one("#now");
    if (!now) return;
    const state = `${now.dataset.status} ${now.dataset.checkpoints}`;
    if (saved !== null && state !== saved) one("[data-charts]")?.reread?.();
    if (saved !== null && saved.startsWith("running") && now.dataset.status !== "running") location.reload();
    saved = state;
  }

  function log(box) {
    let from = 0, text = "", asleep = false;
    const find = one("#log-find"), follow = one("#log-follow"), said = one("#log-state");
    const show = () => {
      const wanted = find.value;
      if (!wanted) {
        box.textContent = text;
        said.textContent = text ? "" : "Nothing was written.";
      } else {
        const parts = text.split("\n").filter((line) => line.toLowerCase().includes(wanted.toLowerCase()));
        box.replaceChildren();
        for (const line of parts.slice(0, 2000)) {
          let rest = line, at;
          while ((at = rest.toLowerCase().indexOf(wanted.toLowerCase())) >= 0) {
            const mark = document.createElement("mark");
            mark.textContent = rest.slice(at, at + wanted.length);
            box.append(rest.slice(0, at), mark);
            rest = rest.slice(at + wanted.length);
          }
          box.append(`${rest}\n`);
        }
        said.textContent = `${parts.length} line${parts.length === 1 ? "" : "s"}`;
      }
      if (follow.checked) box.scrollTop = box.scrollHeight;
    };
    const read = async () => {
      if (asleep || document.visibilityState !== "visible") return;
      asleep = true;
      try {
        for (;;) {
          const answer = await fetch(`${box.dataset.log}?from=${from}`);
          if (!answer.ok) break;
          const piece = await answer.text(), next = Number(answer.headers.get("x-next"));
          if (next <= from) break;
          from = next;
          text = (text + piece).slice(-4000000);
          if (from >= Number(answer.headers.get("x-size"))) break;
        }
      } catch { /* the server was stopped */ }
      asleep = false;
      show();
    };
    find.addEventListener("input", show);
    const whole = kept(box.dataset.log);
    if (whole !== null) { text = whole; show(); return; }
    read();
    if (one("#now")?.dataset.status === "running") setInterval(() => { if (one("#now")?.dataset.status === "running") read(); }, 2000);
  }

  // ----------------------------------------------------------------------------------------------- graph
  function graph(host) {
    const told = JSON.parse(one("#graph-data").textContent);
    if (!told.nodes.length) return;
    const made = new dagre.graphlib.Graph();
    made.setGraph({ rankdir: "LR", nodesep: 18, ranksep: 56, marginx: 10, marginy: 10 });
    made.setDefaultEdgeLabel(() => ({}));
    for (const node of told.nodes) made.setNode(node.id, { width: Math.max(130, 8 * Math.max(node.title.length, node.label.length * 0.86) + 24), height: 46 });
    for (const edge of told.edges) made.setEdge(edge.from, edge.to);
    dagre.layout(made);
    const size = made.graph();
    const canvas = svg("svg", { width: Math.ceil(size.width), height: Math.ceil(size.height), viewBox: `0 0 ${Math.ceil(size.width)} ${Math.ceil(size.height)}` });
    const tip = svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("defs", {}, canvas));
    svg("path", { d: "M0 0L8 4L0 8z", class: "tip" }, tip);
    for (const each of made.edges()) {
      const points = made.edge(each).points.map((p) => `${p.x.toFixed(1)} ${p.y.toFixed(1)}`);
      svg("path", { class: "edge", d: `M${points.join("L")}`, "marker-end": "url(#tip)" }, canvas);
    }
    for (const node of told.nodes) {
      const at = made.node(node.id), left = at.x - at.width / 2, top = at.y - at.height / 2;
      const parent = node.href ? svg("a", { href: node.href, class: `node ${node.kind}` }, canvas) : svg("g", { class: `node ${node.kind}` }, canvas);
      svg("rect", { x: left, y: top, width: at.width, height: at.height, rx: node.kind === "version" ? 4 : 12 }, parent);
      svg("text", { x: left + 12, y: top + 20 }, parent).textContent = node.title;
      svg("text", { x: left + 12, y: top + 36, class: "sub" }, parent).textContent = node.label;
    }
    host.replaceChildren(canvas);
    host.dataset.drawn = String(told.nodes.length);
  }

  // What is live says how often it is asked for again; nobody asks for what nobody looks at.
  let seconds = 0;
  setInterval(() => {
    seconds += 1;
    if (document.visibilityState !== "visible" || one("input.column:focus, .chooser[open]")) return;
    for (const each of all("[data-every]")) if (seconds % Number(each.dataset.every) === 0) window.htmx?.trigger(each, "tick");
  }, 1000);

  document.addEventListener("DOMContentLoaded", () => {
    if (one("#view") && !one("body.still") && location.search === "" && remembered.get("columns") !== null) {
      location.replace(`/runs?${new URLSearchParams({ columns: remembered.get("columns") })}`);
      return;
    }
    table();
    for (const host of all("[data-charts]")) curves(host);
    for (const box of all("[data-log]")) log(box);
    if (one("#graph")) graph(one("#graph"));
    moved();
  });
})();
