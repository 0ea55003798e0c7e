// The new-job form shows only the fields of the chosen method and objective; the hub ignores the others.
// Methods have different default learning rates: the field is cleared when the method changes.

const field = (name) => document.querySelector(`[name='${name}']`);

function show() {
  for (const input of document.querySelectorAll("[data-of]")) {
    input.closest(".field").hidden = !input.dataset.types.split(" ").includes(field(input.dataset.of).value);
  }
}

let method = field("method.type").value;

document.addEventListener("change", (event) => {
  if (!["method.type", "objective.type"].includes(event.target.name)) return;
  show();
  const chosen = field("method.type").value;
  const rates = JSON.parse(field("method.type").dataset.learningRates);
  if (rates[chosen] !== rates[method]) field("training.learning_rate").value = "";
  method = chosen;
});

document.addEventListener("htmx:afterSettle", show);
show();
