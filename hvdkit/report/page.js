// Draws the curves, sorts tables, and lets the keyboard do what a mouse can. Plotly lies packed
// in the page; nothing is loaded. Without this program all numbers are still in the tables.
"use strict";

const DASHES = ["solid", "8px,4px", "2px,3px", "12px,4px", "8px,3px,2px,3px",
  "12px,3px,2px,3px,2px,3px", "5px,2px", "2px,6px"];  // as .d0 to .d7 in page.css
const COLOURS = 8;
const ACROSS = { step: "step", epoch: "epoch", time: "minutes" };
const drawing = JSON.parse(document.getElementById("drawing")?.textContent ?? "null");
const plots = [...document.querySelectorAll(".plot")];
const view = { across: "step", hidden: new Set(), printing: false };

async function unpackPlotly() {
  const text = document.getElementById("plotly").textContent;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// ---- curves ----

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function literal(text) {  // Plotly reads a little HTML in its texts
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function places(series) {
  if (view.across === "time") return series.seconds.map((seconds) => seconds / 60);
  if (view.across === "step") return series.step;
  const ratio = drawing.runs[series.run].epochs;
  return series.step.map((step) => (ratio === null ? null : step * ratio));
}

function traces(chart) {
  const few = chart.series.every((series) => series.step.length <= 40);
  return chart.series.map((series) => ({
    x: places(series),
    y: series.value,
    name: literal(drawing.runs[series.run].name),
    mode: few || series.step.length === 1 ? "lines+markers" : "lines",
    marker: { size: 6 },
    line: {
      color: colour(`--c${series.run % COLOURS}`),
      dash: DASHES[Math.floor(series.run / COLOURS) % DASHES.length],
      width: chart.series.length > 20 ? 1.2 : 2,
    },
    visible: !view.hidden.has(series.run),
    hovertemplate: `%{fullData.name}<br>${ACROSS[view.across]} %{x:,.6~g}: ` +
      `<b>%{y:${chart.percent ? ".1%" : ".5~g"}}</b><extra></extra>`,
  }));
}

function layout(chart, index) {
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
    automargin: true,
  };
  const log = document.querySelector(`[data-log="${index}"]`).checked;
  return {
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 50, r: 12, t: 8, b: 44 },
    showlegend: false, hovermode: "closest", dragmode: "zoom",
    hoverlabel: { align: "left", namelength: -1 },
    xaxis: { ...axis, title: { text: ACROSS[view.across], standoff: 8 }, nticks: 7 },
    yaxis: {
      ...axis, type: log ? "log" : "linear", nticks: 7,
      tickformat: chart.percent ? ".0%" : log ? ".2~g" : undefined,
    },
    uirevision: `${view.across} ${log}`,
  };
}

function draw(index) {
  const chart = drawing.charts[index];
  const options = { displayModeBar: false, responsive: !view.printing };
  const size = view.printing ? { width: 640, height: 280 } : { width: undefined, autosize: true };
  return Plotly.react(plots[index], traces(chart), { ...layout(chart, index), ...size }, options);
}

function drawAll() {
  plots.forEach((_, index) => draw(index));
}

function print(starts) {  // on paper a chart has a size of its own, and the colours of light
  view.printing = starts;
  document.documentElement.classList.toggle("printing", starts);
  drawAll();
}

// Many charts of many runs take a while: those in sight come first.
async function drawInTurn() {
  for (const index of plots.keys()) {
    draw(index);
    await new Promise((next) => setTimeout(next));
  }
  document.documentElement.dataset.drawn = "true";
}

function listenToControls() {
  const boxes = [...document.querySelectorAll("[data-run]")];
  const see = () => {
    view.hidden = new Set(boxes.filter((box) => !box.checked).map((box) => +box.dataset.run));
    drawAll();
  };
  document.getElementById("controls").addEventListener("submit", (e) => e.preventDefault());
  for (const radio of document.querySelectorAll("[name=across]")) {
    radio.addEventListener("change", () => { view.across = radio.value; drawAll(); });
  }
  for (const box of document.querySelectorAll("[data-log]")) {
    box.addEventListener("change", () => draw(+box.dataset.log));
  }
  for (const box of boxes) box.addEventListener("change", see);
  for (const button of document.querySelectorAll("[data-draw]")) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = button.dataset.draw === "all";
      see();
    });
  }
  document.getElementById("reset").addEventListener("click", () => {
    for (const plot of plots) {
      Plotly.relayout(plot, { "xaxis.autorange": true, "yaxis.autorange": true });
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
}

// ---- a chart with the keyboard ----

function walk(plot) {
  const at = { curve: 0, point: -1 };
  const chart = drawing.charts[+plot.dataset.chart];
  plot.addEventListener("keydown", (event) => {
    const curves = [...chart.series.keys()].filter((i) => !view.hidden.has(chart.series[i].run));
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 0, ArrowDown: 0, Home: 0, End: 0 };
    if (event.key === "Escape") Plotly.Fx.unhover(plot);
    if (!(event.key in moves) || !curves.length || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    const turn = { ArrowUp: -1, ArrowDown: 1 }[event.key] ?? 0;
    const place = Math.max(curves.indexOf(at.curve), 0);
    at.curve = curves[(place + turn + curves.length) % curves.length];
    const series = chart.series[at.curve];
    const last = series.value.length - 1;
    const to = { Home: 0, End: last }[event.key] ?? at.point + moves[event.key];
    at.point = Math.min(Math.max(to, 0), last);
    const x = places(series)[at.point];
    document.getElementById("spoken").textContent =
      `${drawing.runs[series.run].name}, ${ACROSS[view.across]} ${x}: ${series.value[at.point]}`;
    if (series.value[at.point] === null) Plotly.Fx.unhover(plot);
    else Plotly.Fx.hover(plot, [{ curveNumber: at.curve, pointNumber: at.point }]);
  });
  plot.addEventListener("blur", () => Plotly.Fx.unhover(plot));
}

// ---- tables ----

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(a.cells[column], b.cells[column], up ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}

function compare(a, b, sign) {  // what has no value stays at the end
  const empty = (cell) => cell.textContent.trim() === "";
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  const [x, y] = [a, b].map((cell) => Number(cell.dataset.value ?? NaN));
  if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
  return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
}

async function begin() {
  document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
  if (!drawing) return;
  try {
    await unpackPlotly();
    listenToControls();
    plots.forEach(walk);
    await drawInTurn();
  } catch (error) {
    const trouble = document.getElementById("trouble");
    trouble.textContent = `The curves could not be drawn (${error}); ` +
      "their numbers are in the tables below.";
    trouble.hidden = false;
    throw error;
  }
}

begin();
