// The tree of turns as small pictures: a picture stands to the right of the one that it was drawn from.

function render({ model, el }) {
  const grid = document.createElement("div");
  grid.className = "qwenlab-strip";
  el.append(grid);

  function show() {
    grid.replaceChildren();
    for (const tile of model.get("tiles")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "qwenlab-tile";
      button.style.gridRow = tile.row + 1;
      button.style.gridColumn = tile.column + 1;
      button.title = tile.words;
      button.disabled = !model.get("enabled");
      if (tile.here) button.setAttribute("aria-current", "true");
      const image = document.createElement("img");
      image.src = tile.picture;
      image.alt = "";
      const label = document.createElement("span");
      label.textContent = tile.label;
      button.append(image, label);
      button.addEventListener("click", () => model.send({ goto: tile.number }));
      grid.append(button);
    }
    grid.querySelector("[aria-current]")?.scrollIntoView?.({ block: "nearest", inline: "nearest" });
  }
  model.on("change:tiles", show);
  model.on("change:enabled", show);
  show();
  return () => {
    model.off("change:tiles", show);
    model.off("change:enabled", show);
  };
}

export default { render };
