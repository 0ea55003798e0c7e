// The job page: the stream extends the curve, and the log scrolls with its end unless the user scrolled up.

import { LossCurve } from "./curve.js";

let curve = null;

function begin() {
  const place = document.querySelector("#curve");
  curve?.destroy();
  curve = place ? new LossCurve(place) : null;
  curve?.load(place.dataset.points);
  const log = document.querySelector("#log");
  if (log) log.scrollTop = log.scrollHeight;
}

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const message = event.detail;
  if (message.type === "metrics") {
    event.preventDefault(); // Points for the chart, not HTML to swap in.
    curve?.add(JSON.parse(message.data));
  } else if (message.type === "log") {
    const log = event.target;
    if (log.scrollHeight - log.scrollTop - log.clientHeight < 40) {
      requestAnimationFrame(() => { log.scrollTop = log.scrollHeight; });
    }
  }
});

document.addEventListener("htmx:afterSettle", () => {
  if (curve && !curve.isShown()) begin(); // The whole page is swapped when the job ends.
});

begin();
