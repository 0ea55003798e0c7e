// Buttons that copy text: `data-copy="text"`, or `data-copy-from="#element"`. They stay hidden without JavaScript.

function reveal(root) {
  for (const button of root.querySelectorAll("[data-copy], [data-copy-from]")) {
    button.hidden = !navigator.clipboard;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (!button) return;
  const source = button.dataset.copyFrom;
  await navigator.clipboard.writeText(source ? document.querySelector(source).textContent : button.dataset.copy);
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1200);
});

document.addEventListener("htmx:afterSwap", (event) => reveal(event.target));
reveal(document);
