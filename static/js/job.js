// One job's page: the curve grows with the stream, and the log follows its end unless the reader has scrolled up.

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
    event.preventDefault(); // Points for the chart, no HTML to swap in.
    curve?.add(JSON.parse(message.data));
  } else if (message.type === "log") {
    const log = event.target;
    if (log.scrollHeight - log.scrollTop - log.clientHeight < 40) {
      requestAnimationFrame(() => { log.scrollTop = log.scrollHeight; });
    }
  }
});

document.addEventListener("htmx:afterSettle", () => {
  if (curve && !curve.isShown()) begin(); // The whole page was swapped when the job ended.
});

begin();
