// A wipe between two pictures: the slider says how much of the first one shows.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".wipe").forEach((wipe) => {
    const slider = wipe.querySelector("input");
    const show = () => wipe.style.setProperty("--at", `${slider.value}%`);
    slider.addEventListener("input", show);
    show();
  });
});
