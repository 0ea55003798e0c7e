// The loss curve: a thin line of all points under a running mean. A repeated step replaces the older point.
// The objective's other measures are drawn on their own axis at the right, or shown as numbers only.

/* global uPlot */

const SMOOTHING = 0.8;

export class LossCurve {
  constructor(place) {
    this.place = place;
    this.measures = JSON.parse(place.dataset.measures ?? "[]"); // Declared in `spec/measures.py`.
    this.points = new Map(); // step → point
    this.chart = null;
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw(true);
    this.dark.addEventListener("change", this.redraw);
    this.observer = new ResizeObserver(() => this.chart?.setSize(this.size()));
    this.observer.observe(place);
  }

  async load(url) {
    const response = await fetch(url);
    if (response.ok) this.add((await response.json()).points);
  }

  add(points) {
    for (const point of points) this.points.set(point.step, point);
    this.draw(false);
  }

  isShown() {
    return this.place.isConnected;
  }

  destroy() {
    this.dark.removeEventListener("change", this.redraw);
    this.observer.disconnect();
    this.chart?.destroy();
  }

  draw(afresh) {
    if (this.points.size === 0) return;
    if (this.chart && !afresh) {
      this.chart.setData(this.series());
      return;
    }
    this.chart?.destroy();
    this.place.querySelector("[data-empty]")?.remove();
    this.chart = new uPlot(this.options(), this.series(), this.place);
  }

  series() {
    const steps = [...this.points.keys()].sort((a, b) => a - b);
    const column = (name) => steps.map((step) => this.points.get(step)[name]);
    const losses = column("loss");
    let mean = null;
    let weight = 0;
    const means = losses.map((loss) => {
      if (loss === null) return null;
      mean = SMOOTHING * (mean ?? 0) + (1 - SMOOTHING) * loss;
      weight = SMOOTHING * weight + (1 - SMOOTHING);
      return mean / weight;
    });
    return [steps, losses, means, ...this.measures.map((measure) => column(measure.name))];
  }

  size() {
    const width = this.place.clientWidth;
    return { width, height: Math.round(Math.min(340, Math.max(220, width * 0.45))) };
  }

  options() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = `12px ${colour("--sans")}`;
    const axis = { stroke: colour("--ink-soft"), font, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const percent = (chart, value) => (value == null ? "–" : `${Math.round(value * 100)}%`);
    const digits = (chart, value) => (value == null ? "–" : value.toFixed(4));
    const second = colour("--curve-measure");
    const drawn = this.measures.filter((measure) => measure.is_drawn);
    const measured = this.measures.map((measure) => ({
      label: measure.label,
      scale: measure.name,
      points: { show: false },
      value: measure.unit === "share" ? percent : digits,
      ...(measure.is_drawn ? { stroke: second, width: 1.5 } : { paths: () => null }),
    }));
    return {
      ...this.size(),
      cursor: { drag: { x: true, y: false } },
      scales: { x: { time: false } },
      axes: [
        { ...axis, grid: { show: false } },
        { ...axis, size: 48 },
        ...drawn.map(({ name }) => ({ ...axis, stroke: second, scale: name, side: 1, size: 48, grid: { show: false } })),
      ],
      series: [
        { label: "Step", value: (chart, value) => (value == null ? "–" : String(value)) },
        { label: "Loss", stroke: colour("--curve-raw"), width: 1.5, points: { show: this.points.size < 20 }, value: digits },
        { label: "Running mean", stroke: colour("--curve"), width: 2.5, points: { show: false }, value: digits },
        ...measured,
      ],
    };
  }
}
