// Shows an upload's progress: the bytes sent, then that the hub checks the file.
// A large file is sent in parts before its form, and resumes after interruptions and page reloads.

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
    bar.removeAttribute("value"); // The check's progress is unknown.
    place.querySelector("small").textContent = `${size(total)} sent. Checking the file…`;
  }
});

// After a broken connection the form keeps its values and can be sent again.
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    const place = event.target.querySelector("[data-upload-progress]");
    if (!place) return;
    place.hidden = false;
    place.querySelector("progress").value = 0;
    place.querySelector("small").textContent = "The upload did not reach the hub. Nothing was stored; send it again.";
    for (const button of event.target.querySelectorAll("button")) button.disabled = false;
  });
}

const PATIENCE_MS = 60_000; // Since the last part that arrived.

document.addEventListener("htmx:confirm", (event) => {
  const form = event.target;
  const input = form.querySelector?.("input[type=file]");
  const file = input?.files[0];
  if (!form.dataset?.partsTo || !file || !input.name || file.size <= Number(form.dataset.partsAbove)) return;
  event.preventDefault();
  const place = form.querySelector("[data-upload-progress]");
  place.hidden = false;
  sendParts(form, file, (sent) => {
    place.querySelector("progress").value = sent / file.size;
    place.querySelector("small").textContent = `${size(sent)} of ${size(file.size)}`;
  }).then(
    (id) => {
      form.elements.upload.value = id;
      input.removeAttribute("name"); // It is uploaded already; the form sends its id.
      event.detail.issueRequest(true);
    },
    (error) => {
      place.querySelector("small").textContent = `${error.message} Send it again to resume the upload.`;
      for (const button of form.querySelectorAll("button")) button.disabled = false;
    },
  );
});

// A different file starts a new upload.
document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-parts-to] input[type=file]")) return;
  event.target.name = "file";
  event.target.form.elements.upload.value = "";
});

async function sendParts(form, file, report) {
  const headers = { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value };
  const about = new URLSearchParams({
    file_name: file.name,
    size_bytes: file.size,
    fingerprint: `${file.name}:${file.size}:${file.lastModified}`,
  });
  if (form.elements.team) about.set("team", form.elements.team.value);
  const begin = () => post(form.dataset.partsTo, headers, about);
  let upload = await begin();
  let arrived = Date.now();
  while (upload.received_bytes < file.size) {
    report(upload.received_bytes);
    const offset = upload.received_bytes;
    const part = file.slice(offset, offset + Number(form.dataset.partBytes));
    try {
      const address = `${form.dataset.partsTo}${upload.id}/parts?offset=${offset}`;
      const octets = { ...headers, "Content-Type": "application/octet-stream" };
      upload = { ...upload, ...(await post(address, octets, part)) };
      arrived = Date.now();
    } catch (error) {
      if (error.isRefusal || Date.now() - arrived > PATIENCE_MS) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      upload = await begin().catch((failure) => {
        if (failure.isRefusal) throw failure;
        return upload;
      });
    }
  }
  report(file.size);
  return upload.id;
}

async function post(address, headers, body) {
  const response = await fetch(address, { method: "POST", headers, body }).catch(() => null);
  const isFull = response?.status === 507; // Retrying does not help.
  if (!response || (response.status >= 500 && !isFull)) throw new Error("The upload did not reach the hub.");
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw Object.assign(new Error(answer.message ?? "The hub refused the upload."), { isRefusal: true });
}
