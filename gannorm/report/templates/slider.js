"use strict";
const slider = document.querySelector("#step");
if (slider) {
  const steps = slider.dataset.steps.split(" ");
  const show = () => {
    const now = Number(slider.value);
    slider.setAttribute("aria-valuetext", "step " + steps[now]);
    document.querySelector(".slider output").textContent = steps[now];
    for (const strip of document.querySelectorAll(".strip")) {
      [...strip.children].forEach((cell, index) => cell.classList.toggle("now", index === now));
      strip.removeAttribute("tabindex");
    }
  };
  document.querySelector(".samples").classList.add("scrubbing");
  document.querySelector(".slider").hidden = false;
  slider.addEventListener("input", show);
  show();
}
