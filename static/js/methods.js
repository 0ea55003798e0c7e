// The new-job form shows the fields of the chosen method and objective; the service ignores those of others.
// A learning rate made for one family of methods says nothing to another: the field then means the method's own again.

const field = (name) => document.querySelector(`[name='${name}']`);

function show() {
  for (const input of document.querySelectorAll("[data-of]")) {
    input.closest(".field").hidden = !input.dataset.types.split(" ").includes(field(input.dataset.of).value);
  }
}

document.addEventListener("change", (event) => {
  if (!["method.type", "objective.type"].includes(event.target.name)) return;
  const rank = field("method.rank").closest(".field");
  const before = rank.hidden;
  show();
  if (rank.hidden !== before) field("training.learning_rate").value = "";
});

document.addEventListener("htmx:afterSettle", show);
show();
