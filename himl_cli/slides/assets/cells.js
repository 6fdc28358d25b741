"use strict";

/* The slides of the montage: where they lie, and which ones a query means. Texts are untrusted: they reach the page as text nodes only. */
const Cells = (() => {
  const data = JSON.parse(document.getElementById("montage").textContent);
  const list = data.cells.map(([id, label, x, y, width, height, level, isOk, image, backend, reason, remark], number) => ({
    number, id, label, x, y, width, height, level, isOk: isOk === 1, image, backend, reason, remark,
  }));

  const twins = new Map();
  for (const cell of list) {
    cell.nth = (twins.get(cell.id) || 0) + 1;
    twins.set(cell.id, cell.nth);
  }

  const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  for (const cell of list) {
    cell.foldedId = folded(cell.id);
    cell.foldedLabel = folded(cell.label || "");
    cell.folded = `${cell.foldedId}\n${cell.foldedLabel}`;
  }

  /* Rows of cells from the top, each from the left: a place is found by two bisections. */
  const byTop = new Map();
  for (const cell of list) {
    if (!byTop.has(cell.y)) byTop.set(cell.y, []);
    byTop.get(cell.y).push(cell);
  }
  const rows = [...byTop.values()].map((cells) => cells.sort((a, b) => a.x - b.x)).sort((a, b) => a[0].y - b[0].y);

  function lastNotAfter(items, startOf, place) {
    let low = 0;
    let high = items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (startOf(items[middle]) <= place) low = middle + 1;
      else high = middle;
    }
    return items[low - 1];
  }

  /* The cell at a pixel of the montage, or null. */
  function at(x, y) {
    const row = lastNotAfter(rows, (cells) => cells[0].y, y);
    const cell = row && lastNotAfter(row, (each) => each.x, x);
    return cell && x < cell.x + cell.width && y < cell.y + cell.height ? cell : null;
  }

  /* Cells with every word of the query in their id or label: those whose id begins with it first, then those whose label does. */
  function matching(query) {
    const whole = folded(query.trim());
    const words = whole.split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const rank = (cell) => (cell.foldedId === whole ? 0 : cell.foldedId.startsWith(whole) ? 1 : cell.foldedLabel.startsWith(whole) ? 2 : 3);
    return list
      .filter((cell) => words.every((word) => cell.folded.includes(word)))
      .map((cell) => [rank(cell), cell])
      .sort(([a, one], [b, other]) => a - b || one.number - other.number)
      .map(([, cell]) => cell);
  }

  /* The part of the page's address that leads to a cell, and the cell that such a part means. */
  function addressOf(cell) {
    return `#slide=${encodeURIComponent(cell.id)}${cell.nth > 1 ? `&nth=${cell.nth}` : ""}`;
  }

  function meantBy(address) {
    const found = /^#slide=([^&]*)(?:&nth=(\d+))?$/.exec(address);
    if (!found) return null;
    let id = found[1];
    try {
      id = decodeURIComponent(id);
    } catch {
      // a sign that encodes nothing: taken as it is
    }
    const nth = Number(found[2] || 1);
    return list.find((cell) => cell.id === id && cell.nth === nth) || list.find((cell) => cell.id === id) || null;
  }

  return { data, list, at, matching, addressOf, meantBy, failed: list.filter((cell) => !cell.isOk || cell.reason), isTwin: (cell) => twins.get(cell.id) > 1 };
})();
