// A figure opens at its own size when it is clicked, or chosen with Enter; Escape or a click closes it.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const pictures = document.querySelectorAll("article.bd-article img");
  if (!pictures.length || typeof HTMLDialogElement === "undefined") return;
  const view = document.createElement("dialog");
  view.className = "enlarged";
  view.setAttribute("aria-label", "Enlarged figure; Escape closes it");
  const large = document.createElement("img");
  view.append(large);
  view.addEventListener("click", () => view.close());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && view.open) view.close();
  });
  document.body.append(view);
  const open = (picture) => {
    large.src = picture.currentSrc || picture.src;
    large.alt = picture.alt;
    view.showModal();
  };
  for (const picture of pictures) {
    if (picture.closest("a")) continue; // it leads somewhere already
    picture.classList.add("enlarges");
    picture.tabIndex = 0;
    picture.setAttribute("role", "button");
    picture.title = "Enlarge";
    picture.addEventListener("click", () => open(picture));
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open(picture);
      }
    });
  }
});
