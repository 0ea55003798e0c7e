// How far an upload has come: bytes while they are sent, then that the service reads the rows.

const units = ["bytes", "kB", "MB", "GB", "TB"];

function size(bytes) {
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

document.addEventListener("htmx:xhr:progress", (event) => {
  const place = event.target.querySelector("[data-upload-progress]");
  if (!place || !event.detail.lengthComputable) return;
  const { loaded, total } = event.detail;
  const bar = place.querySelector("progress");
  place.hidden = false;
  if (loaded < total) {
    bar.value = loaded / total;
    place.querySelector("small").textContent = `${size(loaded)} of ${size(total)}`;
  } else {
    bar.removeAttribute("value"); // It has no measure for the rest.
    place.querySelector("small").textContent = `${size(total)} sent. The rows are being checked…`;
  }
});

// A broken connection leaves the form as it was, to be sent again.
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    const place = event.target.querySelector("[data-upload-progress]");
    if (!place) return;
    place.hidden = false;
    place.querySelector("progress").value = 0;
    place.querySelector("small").textContent = "The upload did not reach the service. Nothing was kept; send it again.";
    for (const button of event.target.querySelectorAll("button")) button.disabled = false;
  });
}
