// The new-job form: presets fill its numbers in whenever datasets, base model or purpose change, until somebody types
// a number of their own. Lines for more datasets come and go.

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

// On its way down, so that nothing is planned with numbers that are about to be replaced.
form?.addEventListener("change", (event) => {
  const field = event.target;
  if (field === form) return;
  if (["preset", "dataset", "weight", "base_model", "team"].includes(field.name)) {
    if (chosen() !== "own") event.stopPropagation();
    fill();
  }
}, true);

// From the first key on, so that no answer under way takes back what somebody types.
form?.addEventListener("input", (event) => {
  if (event.target.name === "preset" || !how().contains(event.target)) return;
  form.querySelector("[name=preset][value=own]").checked = true;
  event.target.closest(".field")?.querySelector("[data-reason]")?.remove();
});

// A field tells of a change only when it is left; what is typed is planned before: htmx's delay waits for a pause.
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

// What was filled in is planned and written as a recipe, like what is typed.
document.addEventListener("htmx:afterSettle", (event) => {
  if (event.target.id === "how") form.dispatchEvent(new Event("change"));
});

document.addEventListener("DOMContentLoaded", () => { // Behind htmx, which begins then too.
  if (!form) return;
  showLines();
  if (how().dataset.fillNow) {
    form.querySelector(`[name=preset][value='${how().dataset.fillNow}']`).checked = true;
    fill();
  }
});
