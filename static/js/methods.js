// The new-job form shows the fields of the chosen method; those of the others are hidden, and the service ignores them.

const choice = document.querySelector("[name='method.type']");

function show() {
  for (const input of document.querySelectorAll("[data-methods]")) {
    input.closest(".field").hidden = !input.dataset.methods.split(" ").includes(choice.value);
  }
}

if (choice) {
  choice.addEventListener("change", show);
  show();
}
