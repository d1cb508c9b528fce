// The last five minutes as curves. One moment is looked at in all of them: under the pointer, or moved by the arrow keys.

const SAMPLES = 300;
const STEP_MS = 1000;
const ROOMY_PX = 380;
const PLOT = { left: 48, right: 6, top: 8, bottom: 18 };

const CURVES = [
  { title: "Connections", lines: [["connections", "open"]], format: asCount, axis: asShort },
  { title: "Messages", lines: [["messages_in", "in"], ["messages_out", "out"]], format: asShortRate, axis: asShort },
  { title: "Bytes", lines: [["bytes_in", "in"], ["bytes_out", "out"]], format: asByteRate, axis: asBytes, base: 1024 },
  { title: "Latency, p99", lines: [["delivery_p99_us", "delivery"], ["latency_p99_us", "handling"]], format: asMicroseconds, axis: asMicroseconds },
  { title: "Busiest CPU", lines: [["busy", "busy"]], format: asPart, axis: asPart, top: 1 },
  { title: "Closes", lines: [["disconnects", "closed"]], format: asShortRate, axis: asShort },
];

// What the server has kept, newest last; null where it was not there to be asked.
const past = { toMs: 0, series: {} };
let moment = null;
let plots = [];

// How many seconds must be asked for so that nothing is missing.
function secondsMissing(nowMs) {
  return past.toMs ? Math.min(SAMPLES, Math.ceil(Math.max(0, nowMs - past.toMs) / STEP_MS) + 3) : SAMPLES;
}

// Puts an answer of /api/series after what is known. A clock that went back begins anew.
function remember({ to_ms: toMs, series }) {
  const isNew = toMs < past.toMs;
  const passed = past.toMs && !isNew ? Math.round((toMs - past.toMs) / STEP_MS) : SAMPLES;
  for (const name of CURVES.flatMap(({ lines }) => lines.map(([name]) => name))) {
    const old = isNew ? [] : past.series[name] ?? [];
    const moved = [...old, ...Array(Math.min(passed, SAMPLES)).fill(null)];
    const latest = (series[name] ?? []).slice(-SAMPLES);
    const all = [...moved.slice(0, Math.max(0, moved.length - latest.length)), ...latest].slice(-SAMPLES);
    past.series[name] = [...Array(SAMPLES - all.length).fill(null), ...all];
  }
  past.toMs = toMs;
}

// The least round number that holds the value; half of it is round as well.
const ROUND = [1, 1.2, 1.5, 2, 2.4, 3, 4, 5, 6, 8];

function roundUp(value, base = 1000) {
  const unit = base ** Math.floor(Math.log(value) / Math.log(base));
  for (let tens = unit; ; tens *= 10) {
    const bound = ROUND.map(step => step * tens).find(bound => bound >= value);
    if (bound) return bound;
  }
}

function makePlot(curve) {
  const readouts = curve.lines.map(() => make("output"));
  const legend = curve.lines.map(([, name], i) => make("span", {}, sample(i), name, " ", readouts[i]));
  const svg = draw("svg", {
    class: "plot", tabindex: 0, role: "slider", "aria-label": `${curve.title}, the last five minutes`,
    "aria-valuemin": -SAMPLES + 1, "aria-valuemax": 0, "aria-valuenow": 0,
  });
  at("curves").append(make("figure", {}, make("figcaption", {}, make("b", {}, curve.title), ...legend), svg));
  const plot = { ...curve, svg, readouts, width: 0, height: 0 };
  svg.addEventListener("pointermove", event => look(momentUnder(plot, event)));
  svg.addEventListener("pointerleave", () => look(null));
  svg.addEventListener("keydown", walk);
  svg.addEventListener("blur", () => look(null));
  new ResizeObserver(([{ contentRect }]) => {
    Object.assign(plot, { width: contentRect.width, height: contentRect.height });
    drawPlot(plot);
  }).observe(svg);
  return plot;
}

function sample(place) {
  return draw("svg", { class: place ? "sample second" : "sample", viewBox: "0 0 20 8", "aria-hidden": true },
    draw("line", { x1: 0, x2: 20, y1: 4, y2: 4 }));
}

const xOf = (plot, place) => PLOT.left + (place / (SAMPLES - 1)) * (plot.width - PLOT.left - PLOT.right);
const yOf = (plot, part) => plot.height - PLOT.bottom - part * (plot.height - PLOT.top - PLOT.bottom);

function momentUnder(plot, event) {
  const { left } = plot.svg.getBoundingClientRect();
  const part = (event.clientX - left - PLOT.left) / (plot.width - PLOT.left - PLOT.right);
  return Math.round(Math.min(1, Math.max(0, part)) * (SAMPLES - 1));
}

const MOVES = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30, Home: -SAMPLES, End: SAMPLES };

function walk(event) {
  if (event.key === "Escape") return look(null);
  const step = MOVES[event.key];
  if (!step) return;
  event.preventDefault();
  look(Math.min(SAMPLES - 1, Math.max(0, (moment ?? SAMPLES - 1) + step)));
}

function look(place) {
  moment = place;
  drawPlots();
}

function drawPlots() {
  const backMs = (SAMPLES - 1 - (moment ?? SAMPLES - 1)) * STEP_MS;
  show(at("moment"), moment === null || !past.toMs ? "" : `at ${asClock(past.toMs - backMs)}, ${asTime(backMs / 1000)} ago`);
  plots.forEach(drawPlot);
}

function drawPlot(plot) {
  const place = moment ?? SAMPLES - 1;
  const values = plot.lines.map(([name]) => past.series[name] ?? []);
  const said = plot.lines.map(([, name], i) => `${name} ${plot.format(values[i][place])}`);
  plot.readouts.forEach((readout, i) => show(readout, plot.format(values[i][place])));
  plot.svg.setAttribute("aria-valuenow", place - SAMPLES + 1);
  plot.svg.setAttribute("aria-valuetext", `${asTime(SAMPLES - 1 - place)} ago: ${said.join(", ")}`);
  if (!plot.width) return;
  const most = Math.max(0, ...values.flat().filter(isKnown));
  const top = plot.top ?? roundUp(Math.max(most, 1), plot.base);
  const parts = [...axes(plot, top)];
  values.forEach((line, i) => {
    const path = pathOf(plot, line, top);
    if (i === 0) parts.push(draw("path", { class: "under", d: areaOf(plot, line, top) }));
    parts.push(draw("path", { class: i ? "second" : "first", d: path }));
  });
  if (moment !== null) {
    const x = xOf(plot, place);
    parts.push(draw("line", { class: "moment", x1: x, x2: x, y1: PLOT.top, y2: plot.height - PLOT.bottom }));
  }
  plot.svg.replaceChildren(...parts);
}

function* axes(plot, top) {
  for (const part of [0, 0.5, 1]) {
    const y = Math.round(yOf(plot, part));
    yield draw("line", { class: "grid", x1: PLOT.left, x2: plot.width - PLOT.right, y1: y, y2: y });
    yield draw("text", { x: PLOT.left - 6, y: y + 4, "text-anchor": "end" }, plot.axis(part * top));
  }
  const minutes = SAMPLES / 60;
  const every = plot.width < ROOMY_PX ? minutes : 1;
  for (let back = 0; back <= minutes; back += every) {
    const x = back === minutes ? PLOT.left : xOf(plot, SAMPLES - 1 - back * 60);
    const anchor = back === 0 ? "end" : back === minutes ? "start" : "middle";
    yield draw("text", { x, y: plot.height - 4, "text-anchor": anchor }, back === 0 ? "now" : `−${back}${THIN}min`);
  }
}

// Runs of known values, each as its points.
function runsOf(plot, values, top) {
  const runs = [];
  let run = null;
  values.forEach((value, place) => {
    if (!isKnown(value)) return (run = null);
    if (!run) runs.push((run = []));
    run.push(`${xOf(plot, place).toFixed(1)},${yOf(plot, Math.min(1, value / top)).toFixed(1)}`);
  });
  return runs;
}

const pathOf = (plot, values, top) => runsOf(plot, values, top).map(run => `M${run.join("L")}`).join("");

function areaOf(plot, values, top) {
  const floor = yOf(plot, 0).toFixed(1);
  const xOfPoint = point => point.split(",")[0];
  return runsOf(plot, values, top)
    .map(run => `M${xOfPoint(run[0])},${floor}L${run.join("L")}L${xOfPoint(run.at(-1))},${floor}Z`).join("");
}
