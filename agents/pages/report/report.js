"use strict";
// Episodes are shown step by step; without this script all steps are below each other.
for (const item of document.querySelectorAll(".scripted")) item.hidden = false;

for (const episode of document.querySelectorAll(".episode")) {
  const steps = [...episode.querySelectorAll(".step")];
  const choices = [...episode.querySelectorAll("[data-step]")];
  const moves = [...episode.querySelectorAll("[data-move]")];
  const status = episode.querySelector("[role=status]");
  let current = 0;

  const show = (step, say = true) => {
    current = Math.min(Math.max(step, 0), steps.length - 1);
    steps.forEach((item, i) => { item.hidden = i !== current; });
    choices.forEach((item, i) => item.setAttribute("aria-pressed", String(i === current)));
    // Not disabled, so that the button that was just pressed keeps the focus.
    for (const item of moves) {
      const there = current + Number(item.dataset.move);
      item.setAttribute("aria-disabled", String(there < 0 || there >= steps.length));
    }
    if (!say) return;
    const said = [...steps[current].querySelectorAll("h4, .verdict")];
    status.textContent = said.map((item) => item.textContent).join(". ");
  };

  for (const item of choices) item.addEventListener("click", () => show(Number(item.dataset.step)));
  for (const item of moves) {
    item.addEventListener("click", () => show(current + Number(item.dataset.move)));
  }
  episode.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const there = {
      ArrowLeft: current - 1,
      ArrowRight: current + 1,
      Home: 0,
      End: steps.length - 1,
    }[event.key];
    if (there === undefined) return;
    event.preventDefault();
    show(there);
  });
  show(0, false);
}
