/* The picture, zoomed by OpenSeadragon, and one canvas over it that marks slides. */
const View = (() => {
  const { data } = Cells;
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const MARGIN = 12; // pixels of the screen around a slide that is zoomed to
  const LARGEST = 8; // pixels of the screen for one of the montage
  const marks = document.getElementById("marks");
  const state = { matches: null, active: null, hovered: null, chosen: null };

  const firstLevel = Math.max(0, Math.min(data.levels - 1, Math.floor(Math.log2(data.tile))));
  const viewer = OpenSeadragon({
    element: document.getElementById("viewer"),
    tileSources: {
      width: data.width,
      height: data.height,
      tileSize: data.tile,
      tileOverlap: data.overlap,
      minLevel: firstLevel, // coarser ones would be shown for no more than a blink
      maxLevel: data.levels - 1,
      getTileUrl: (level, column, row) => `${data.folder}/${level}/${column}_${row}.${data.format}`,
    },
    drawer: "canvas", // pictures of file:// may be drawn, but not read: WebGL refuses them
    crossOriginPolicy: false,
    loadTilesWithAjax: false,
    showNavigationControl: false,
    keyboardNavEnabled: false,
    animationTime: isCalm ? 0.01 : 0.7,
    blendTime: isCalm ? 0 : 0.1,
    visibilityRatio: 0.3,
    minZoomImageRatio: 0.7,
    maxZoomPixelRatio: LARGEST,
    imageLoaderLimit: 8,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
    gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true, pinchRotate: false },
    gestureSettingsPen: { clickToZoom: false, dblClickToZoom: true },
  });
  viewer.canvas.setAttribute("role", "application");
  viewer.canvas.setAttribute("aria-label", `Montage of ${data.cells.length} slides. Plus and minus zoom, arrow keys move, slash searches, n and p go from slide to slide.`);

  const image = () => viewer.world.getItemAt(0);

  function pixelAt(clientX, clientY) {
    const frame = viewer.element.getBoundingClientRect();
    const place = viewer.viewport.pointFromPixel(new OpenSeadragon.Point(clientX - frame.left, clientY - frame.top), true);
    return [place.x * data.width, place.y * data.width];
  }

  function cellAt(clientX, clientY) {
    return image() ? Cells.at(...pixelAt(clientX, clientY)) : null;
  }

  /* Zoom so that a part of the montage fills the window but for what lies over its lower edge. Lengths are of the montage's width. */
  function goTo({ x, y, width, height }, covered, isImmediate) {
    const frame = viewer.viewport.getContainerSize();
    const [acrossFree, downFree] = [Math.max(40, frame.x - 2 * MARGIN), Math.max(40, frame.y - covered - 2 * MARGIN)];
    const scale = Math.max(width / acrossFree, height / downFree, 1 / LARGEST) / data.width; // what a pixel of the screen shows
    const [across, down] = [frame.x * scale, frame.y * scale];
    const left = (x + width / 2) / data.width - across / 2;
    const top = (y + height / 2) / data.width - down / 2 + (covered / 2) * scale;
    viewer.viewport.fitBounds(new OpenSeadragon.Rect(left, top, across, down), isImmediate || isCalm);
  }

  const whole = (isImmediate) => goTo({ x: 0, y: 0, width: data.width, height: data.height }, 0, isImmediate);

  /* Whether the window shows little beside this slide. */
  function isInside(cell) {
    const shown = viewer.viewport.getBounds();
    return shown.width * data.width <= cell.width * 1.02 || shown.height * data.width <= cell.height * 1.02;
  }

  function zoomBy(factor) {
    viewer.viewport.zoomBy(factor, null, isCalm);
    viewer.viewport.applyConstraints(isCalm);
  }

  function moveBy(x, y) {
    const shown = viewer.viewport.getBounds();
    viewer.viewport.panBy(new OpenSeadragon.Point(x * shown.width, y * shown.height), isCalm);
    viewer.viewport.applyConstraints(isCalm);
  }

  /* Marks: what a search did not find is veiled, the rest is outlined. */
  let isAsked = false;

  function mark(changes) {
    Object.assign(state, changes);
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(draw);
  }

  function draw() {
    isAsked = false;
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(marks.clientWidth * scale);
    const height = Math.round(marks.clientHeight * scale);
    if (marks.width !== width || marks.height !== height) Object.assign(marks, { width, height });
    const pen = marks.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!image()) return;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const frameOf = framing();
    if (state.matches) drawMatches(pen, frameOf, colour);
    const outlined = [[state.hovered, 2], [state.active, 3], [state.chosen, 3]];
    for (const [cell, thickness] of outlined) if (cell) outline(pen, frameOf(cell), thickness, colour("--accent"));
  }

  function framing() {
    const { viewport } = viewer;
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const across = (viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true).x - corner.x) / data.width;
    return (cell) => [corner.x + cell.x * across, corner.y + cell.y * across, cell.width * across, cell.height * across];
  }

  function drawMatches(pen, frameOf, colour) {
    const frames = state.matches.map(frameOf).filter(([x, y, w, h]) => x < marks.clientWidth && y < marks.clientHeight && x + w > 0 && y + h > 0);
    pen.beginPath();
    pen.rect(0, 0, marks.clientWidth, marks.clientHeight);
    for (const frame of frames) pen.rect(...frame);
    pen.fillStyle = `rgb(${colour("--veil")} / 72%)`;
    pen.fill("evenodd");
    pen.beginPath();
    for (const [x, y, w, h] of frames) pen.rect(x + 0.5, y + 0.5, Math.max(1, w - 1), Math.max(1, h - 1));
    const smallest = Math.min(...frames.slice(0, 100).map(([, , w, h]) => Math.min(w, h)));
    pen.lineWidth = Math.max(0.5, Math.min(1.5, smallest / 16)); // lines leave something of slides that are dots
    pen.strokeStyle = colour("--accent");
    pen.stroke();
  }

  function outline(pen, [x, y, w, h], thickness, colour) {
    pen.lineWidth = thickness;
    pen.strokeStyle = colour;
    pen.strokeRect(x - thickness / 2, y - thickness / 2, w + thickness, h + thickness);
  }

  viewer.addHandler("update-viewport", () => mark({}));
  viewer.addHandler("resize", () => mark({}));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => mark({}));

  return {
    viewer, state, mark, cellAt, goTo, isInside, moveBy,
    closer: () => zoomBy(1.6),
    farther: () => zoomBy(1 / 1.6),
    whole,
  };
})();
