/* What the reader does: searching, pointing, keys, addresses. */
(() => {
  const { part } = Panels;
  const { data, list } = Cells;
  const { viewer } = View;
  const number = (value) => value.toLocaleString("en");
  part("summary").textContent = `${list.length === 1 ? "1 slide" : `${number(list.length)} slides`} · ${number(data.width)} × ${number(data.height)} px`;

  /* Choosing a slide. */
  function choose(cell, { isZoomed = true, isImmediate = false } = {}) {
    View.mark({ chosen: cell });
    Panels.showChosen(cell);
    remember(cell ? Cells.addressOf(cell) : "");
    if (cell && isZoomed) View.goTo(cell, Panels.covered(), isImmediate);
  }

  function step(by) {
    const among = matches.length ? matches : list;
    const present = among.indexOf(View.state.chosen);
    const next = present < 0 ? (by > 0 ? 0 : among.length - 1) : (present + by + among.length) % among.length;
    if (among.length) choose(among[next]);
  }

  let remembered = location.hash;

  function remember(address) {
    if (address === location.hash) return;
    remembered = address;
    try {
      history.replaceState(null, "", address || location.pathname + location.search);
    } catch {
      location.replace(address || "#"); // a browser that lets no file change its address
    }
  }

  function heed(isImmediate) {
    const cell = Cells.meantBy(location.hash);
    if (cell) choose(cell, { isImmediate });
    else if (location.hash.startsWith("#slide=")) Panels.tellTrouble("The montage has no slide of the id that the address names.");
  }

  addEventListener("hashchange", () => {
    if (location.hash !== remembered) heed(false);
    remembered = location.hash;
  });

  /* Searching. */
  const LONGEST = 100;
  const query = part("query");
  const results = part("results");
  let matches = [];
  let active = -1;

  function search() {
    const text = query.value.trim();
    matches = Cells.matching(text);
    document.body.classList.toggle("searching", query.value !== "");
    part("clear").hidden = query.value === "";
    part("count").textContent = !text ? "" : !matches.length ? "No match" : matches.length === 1 ? "1 match" : `${number(matches.length)} matches`;
    results.replaceChildren(...matches.slice(0, LONGEST).map((cell, place) => option(cell, place, text)));
    part("more").hidden = matches.length <= LONGEST;
    part("more").textContent = `The first ${LONGEST} of ${number(matches.length)}. Type more to find fewer.`;
    View.mark({ matches: text ? matches : null });
    show(Boolean(matches.length));
    activate(matches.length ? 0 : -1);
  }

  function option(cell, place, text) {
    const line = Panels.made("li");
    line.setAttribute("aria-selected", "false");
    line.id = `result-${place}`;
    line.setAttribute("role", "option");
    line.append(Panels.highlighted("span", "id", cell.id, text));
    const more = [cell.label, cell.isOk ? "" : "failed", Cells.isTwin(cell) ? cell.image : ""].filter(Boolean).join(" · ");
    if (more) line.append(Panels.highlighted("span", "more", more, text));
    line.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    line.addEventListener("click", () => take(place));
    return line;
  }

  function show(isOpen) {
    part("found").hidden = !isOpen;
    query.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) View.mark({ active: null });
  }

  function activate(place) {
    if (active >= 0 && results.children[active]) results.children[active].setAttribute("aria-selected", "false");
    active = place;
    const line = place >= 0 ? results.children[place] : null;
    if (line) {
      line.setAttribute("aria-selected", "true");
      query.setAttribute("aria-activedescendant", line.id);
      line.scrollIntoView({ block: "nearest" });
    } else {
      query.removeAttribute("aria-activedescendant");
    }
    View.mark({ active: line && !part("found").hidden ? matches[place] : null });
  }

  function take(place) {
    show(false);
    activate(place);
    View.mark({ active: null });
    Panels.toggle(null, false);
    viewer.canvas.focus(); // its keys work at once, and a phone's keyboard makes room
    choose(matches[place]);
  }

  function clear() {
    query.value = "";
    search();
  }

  query.addEventListener("input", search);
  query.addEventListener("focus", () => { if (matches.length) show(true); });
  query.addEventListener("blur", () => show(false));
  part("clear").addEventListener("click", () => { clear(); query.focus(); });
  query.addEventListener("keydown", (event) => {
    const last = results.children.length - 1;
    if (event.isComposing) return;
    if (event.key === "Enter" && active >= 0) take(active);
    else if (event.key === "ArrowDown" && last >= 0) { show(true); activate(active < last ? active + 1 : 0); }
    else if (event.key === "ArrowUp" && last >= 0) { show(true); activate(active > 0 ? active - 1 : last); }
    else if (event.key === "Escape") { if (!part("found").hidden) show(false); else if (query.value) clear(); else query.blur(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  /* Pointing. */
  let pointer = null;

  function point() {
    const cell = pointer ? View.cellAt(...pointer) : null;
    if (cell !== View.state.hovered) View.mark({ hovered: cell });
    viewer.canvas.classList.toggle("over-slide", Boolean(cell));
    Panels.showHover(cell === View.state.chosen ? null : cell, ...(pointer || []));
  }

  viewer.element.addEventListener("pointermove", (event) => {
    pointer = event.pointerType === "touch" || event.buttons ? null : [event.clientX, event.clientY];
    point();
  });
  viewer.element.addEventListener("pointerleave", () => { pointer = null; point(); });
  viewer.addHandler("viewport-change", point);
  viewer.addHandler("canvas-click", (event) => {
    if (!event.quick) return;
    Panels.toggle(null, false);
    query.blur();
    const { clientX, clientY } = event.originalEvent;
    const cell = View.cellAt(clientX, clientY);
    if (cell) choose(cell, { isZoomed: !View.isInside(cell) });
  });

  /* Buttons and keys. */
  part("closer").addEventListener("click", View.closer);
  part("farther").addEventListener("click", View.farther);
  part("whole").addEventListener("click", () => View.whole());
  part("previous").addEventListener("click", () => step(-1));
  part("next").addEventListener("click", () => step(1));
  part("dismiss").addEventListener("click", () => { choose(null); viewer.canvas.focus(); });
  Panels.listFailures((cell) => { if (matchMedia("(max-width: 760px)").matches) Panels.toggle(null, false); choose(cell); });

  const STEP = 0.15; // of the window
  const keys = {
    "/": () => { query.focus(); query.select(); },
    "?": () => Panels.toggle(part("help"), part("keys").hidden),
    "+": View.closer,
    "=": View.closer,
    "-": View.farther,
    "_": View.farther,
    0: () => View.whole(),
    n: () => step(1),
    p: () => step(-1),
    ArrowLeft: () => View.moveBy(-STEP, 0),
    ArrowRight: () => View.moveBy(STEP, 0),
    ArrowUp: () => View.moveBy(0, -STEP),
    ArrowDown: () => View.moveBy(0, STEP),
    Escape: () => { if (!Panels.closeAll()) { if (query.value) clear(); else choose(null); } },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === query) return;
    const act = keys[event.key];
    const isScrolling = event.key.startsWith("Arrow") && event.target.closest && event.target.closest(".panel");
    if (!act || isScrolling || !viewer.world.getItemCount()) return;
    event.preventDefault();
    act();
  });

  /* Tiles that are not there. */
  let isAnyLoaded = false;
  viewer.addHandler("tile-loaded", () => { isAnyLoaded = true; });
  viewer.addHandler("tile-load-failed", () => {
    const keep = `Keep the folder ${data.folder} beside this page.`;
    Panels.tellTrouble(isAnyLoaded ? `Parts of the picture are missing. ${keep}` : `The picture is missing. ${keep}`);
  });
  viewer.addHandler("open", () => { View.whole(true); heed(true); });
})();
