// The new-job form: a preset fills in the numbers whenever datasets, base model or preset change, until the user
// types a number. Also adds and removes lines for datasets.

const form = document.querySelector("form:has(#how)");
const how = () => form.querySelector("#how");
const chosen = () => form.querySelector("[name=preset]:checked")?.value;

function fill() {
  if (chosen() !== "own") htmx.trigger(how(), "fill");
}

function showLines() {
  const lines = form.querySelectorAll("[data-line]");
  for (const line of lines) {
    line.querySelector(".weight").hidden = lines.length < 2;
    line.querySelector("[data-remove-line]").hidden = lines.length < 2;
  }
}

// In the capture phase, so that no plan uses numbers that are about to be replaced.
form?.addEventListener("change", (event) => {
  const field = event.target;
  if (field === form) return;
  if (["preset", "dataset", "weight", "base_model", "team"].includes(field.name)) {
    if (chosen() !== "own") event.stopPropagation();
    fill();
  }
}, true);

// From the first key on, so that no pending response overwrites what the user types.
form?.addEventListener("input", (event) => {
  if (event.target.name === "preset" || !how().contains(event.target)) return;
  form.querySelector("[name=preset][value=own]").checked = true;
  event.target.closest(".field")?.querySelector("[data-reason]")?.remove();
});

// `change` only fires when the field loses focus; plan during typing too, after htmx's delay.
form?.addEventListener("input", (event) => {
  const isTyped = event.target.matches("input:not([type=radio], [type=checkbox]), textarea");
  if (isTyped) form.dispatchEvent(new Event("change"));
});

document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target.id === "how" && chosen() === "own") event.detail.shouldSwap = false;
});

form?.addEventListener("click", (event) => {
  const add = event.target.closest("[data-add-line]");
  const remove = event.target.closest("[data-remove-line]");
  if (add) {
    event.preventDefault();
    const lines = form.querySelectorAll("[data-line]");
    const line = lines[lines.length - 1].cloneNode(true);
    const select = line.querySelector("select");
    const taken = new Set([...form.querySelectorAll("[name=dataset]")].map((other) => other.value));
    select.id = `id_dataset_${Date.now()}`;
    const free = [...select.options].find((option) => option.value && !taken.has(option.value));
    if (free) select.value = free.value;
    lines[lines.length - 1].after(line);
    select.focus();
  } else if (remove) {
    remove.closest("[data-line]").remove();
  }
  if (add || remove) {
    showLines();
    if (chosen() === "own") form.dispatchEvent(new Event("change"));
    fill();
  }
});

// Plan the filled-in values and update the recipe, as after typing.
document.addEventListener("htmx:afterSettle", (event) => {
  if (event.target.id === "how") form.dispatchEvent(new Event("change"));
});

document.addEventListener("DOMContentLoaded", () => { // After htmx, which also starts on this event.
  if (!form) return;
  showLines();
  if (how().dataset.fillNow) {
    form.querySelector(`[name=preset][value='${how().dataset.fillNow}']`).checked = true;
    fill();
  }
});
