/* What is said about slides: beside the pointer, at the lower edge, in lists. */
const Panels = (() => {
  const part = (id) => document.getElementById(id);
  const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g; // with those that turn the direction of writing round

  /* The text with signs in place of characters that show nothing. */
  function shown(text) {
    return text.replace(CONTROL, (sign) => (sign === "\n" || sign === "\u2028" || sign === "\u2029" ? "↵" : sign < " " ? String.fromCharCode(0x2400 + sign.charCodeAt(0)) : "␦"));
  }

  function made(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  /* A text from outside, in its own direction. */
  function told(tag, className, text) {
    const element = made(tag, className);
    const inner = made("bdi", "", shown(text));
    element.append(inner);
    return element;
  }

  /* The text with the query in it marked. */
  function highlighted(tag, className, text, query) {
    const element = told(tag, className, text);
    const inner = element.firstChild;
    const visible = inner.textContent;
    const lower = visible.toLowerCase();
    const begin = query ? lower.indexOf(query.toLowerCase()) : -1;
    if (begin >= 0 && lower.length === visible.length) {
      const end = begin + query.length;
      inner.replaceChildren(visible.slice(0, begin), made("mark", "", visible.slice(begin, end)), visible.slice(end));
    }
    return element;
  }

  /* Why the slide is not there; or its mask, which its reason then says. */
  function troubleOf(cell) {
    return cell.isOk ? cell.reason : `Failed: ${cell.reason || "no reason is known."}`;
  }

  function factsOf(cell) {
    const facts = [told("p", "id", cell.id)];
    if (cell.label !== null) facts.push(told("p", "label", cell.label));
    if (cell.reason || !cell.isOk) facts.push(told("p", "bad", troubleOf(cell)));
    const how = [cell.level === null ? "" : `Level ${cell.level}`, cell.backend].filter(Boolean).join(" · ");
    if (how) facts.push(made("p", "how", how));
    if (cell.remark) facts.push(told("p", "note", cell.remark));
    facts.push(told("p", "path", cell.image));
    return facts;
  }

  /* Beside the pointer, wherever there is room. */
  const hover = part("hover");
  let described = null;

  function showHover(cell, clientX, clientY) {
    hover.hidden = !cell;
    if (!cell) {
      described = null;
      return;
    }
    if (described !== cell) hover.replaceChildren(...factsOf(cell));
    described = cell;
    const frame = hover.parentElement.getBoundingClientRect();
    const [x, y] = [clientX - frame.left, clientY - frame.top];
    const left = x + 16 + hover.offsetWidth < frame.width ? x + 16 : Math.max(8, x - 16 - hover.offsetWidth);
    const top = y + 18 + hover.offsetHeight < frame.height ? y + 18 : Math.max(8, y - 12 - hover.offsetHeight);
    hover.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }

  /* The slide that was gone to. */
  const chosen = part("chosen");

  function showChosen(cell) {
    chosen.hidden = !cell;
    document.body.classList.toggle("choosing", Boolean(cell));
    chosen.querySelector(".facts").replaceChildren(...(cell ? factsOf(cell) : []));
  }

  /* How much of the picture's lower edge the chosen slide's panel covers, in pixels. */
  function covered() {
    return chosen.hidden ? 0 : chosen.parentElement.clientHeight - chosen.offsetTop;
  }

  /* Panels that open by a button. */
  const openings = [[part("failed"), part("failures")], [part("help"), part("keys")]];

  function toggle(button, isOpen) {
    for (const [other, panel] of openings) {
      const opens = other === button && isOpen;
      panel.hidden = !opens;
      other.setAttribute("aria-expanded", String(opens));
    }
  }

  function closeAll() {
    const open = openings.find(([, panel]) => !panel.hidden);
    if (open) {
      if (open[1].contains(document.activeElement)) open[0].focus();
      toggle(null, false);
    }
    return Boolean(open);
  }

  for (const [button, panel] of openings) button.addEventListener("click", () => toggle(button, panel.hidden));

  function listFailures(choose) {
    const { failed } = Cells;
    if (!failed.length) return;
    part("failed").hidden = false;
    part("failed").textContent = `${failed.length.toLocaleString("en")} failed`;
    const slides = failed.filter((cell) => !cell.isOk).length;
    const counts = [[slides, "slide"], [failed.length - slides, "mask"]].filter(([count]) => count);
    part("failures-heading").textContent = `${counts.map(([count, what]) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`).join(" and ")} failed`;
    const LONGEST = 500;
    const lines = failed.slice(0, LONGEST).map((cell) => {
      const button = made("button");
      button.type = "button";
      button.append(told("span", "id", cell.id), told("span", "reason", cell.reason || "No reason is known."));
      button.addEventListener("click", () => choose(cell));
      const line = made("li");
      line.append(button);
      return line;
    });
    if (failed.length > LONGEST) lines.push(made("li", "reason", "The others are listed in montage.csv."));
    part("failures").querySelector("ul").replaceChildren(...lines);
  }

  function tellTrouble(text) {
    part("trouble").querySelector("span").textContent = text;
    part("trouble").hidden = false;
  }
  part("trouble").querySelector("button").addEventListener("click", () => { part("trouble").hidden = true; });

  return { part, made, told, highlighted, showHover, showChosen, covered, toggle, closeAll, listFailures, tellTrouble };
})();
